"""Losses on labelled boxes against loops in float64."""

import math

import pytest
import torch

from understudy.losses.boxes import box_loss, objectness_loss

TARGET = torch.tensor([[1, 0, -1, 2], [0, 0, 0, -1], [-1, -1, -1, -1]])


def test_objectness_is_the_mean_of_an_image_then_of_the_images():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64)
    means = []
    for row, kinds in zip(logits.tolist(), TARGET.tolist(), strict=True):
        each = [
            math.log1p(math.exp(-z)) if kind > 0 else math.log1p(math.exp(z))
            for z, kind in zip(row, kinds, strict=True)
            if kind >= 0
        ]
        means.append(sum(each) / max(len(each), 1))
    assert float(objectness_loss(logits, TARGET)) == pytest.approx(sum(means) / 3, rel=1e-12)


def test_boxes_are_counted_where_there_is_an_object_and_divided_by_all():
    torch.manual_seed(0)
    moved, goals = torch.randn(2, 3, 4, 4, dtype=torch.float64).mul(0.3).unbind()
    means = []
    for row, aims, kinds in zip(moved.tolist(), goals.tolist(), TARGET.tolist(), strict=True):
        total = 0.0
        for deltas, aim, kind in zip(row, aims, kinds, strict=True):
            for a, b in zip(deltas, aim, strict=True):
                gap = abs(a - b)
                total += (4.5 * gap * gap if gap < 1 / 9 else gap - 1 / 18) if kind > 0 else 0.0
        means.append(total / max(sum(kind >= 0 for kind in kinds), 1))
    assert float(box_loss(moved, goals, TARGET)) == pytest.approx(sum(means) / 3, rel=1e-12)


def test_what_does_not_count_has_no_gradient_even_if_it_is_nan():
    logits = torch.zeros(3, 4, dtype=torch.float64)
    moved = torch.zeros(3, 4, 4, dtype=torch.float64)
    logits[2], moved[2] = math.nan, math.nan
    logits.requires_grad_()
    moved.requires_grad_()
    (objectness_loss(logits, TARGET) + box_loss(moved, torch.ones_like(moved), TARGET)).backward()
    assert not logits.grad[2].any()
    assert not logits.grad[TARGET < 0].any()
    assert not moved.grad[TARGET <= 0].any()
    assert moved.grad[TARGET > 0].all()
