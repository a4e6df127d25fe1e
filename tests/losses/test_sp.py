"""Similarity-preserving distillation against loops."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import sp_loss


def gram_by_loops(feature):
    rows = feature.flatten(1).tolist()
    table = [[sum(a * b for a, b in zip(r, q, strict=True)) for q in rows] for r in rows]
    return [[x / max(math.sqrt(sum(y * y for y in row)), 1e-12) for x in row] for row in table]


def test_sp_equals_loops_for_unequal_channels_and_sizes():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, 4, 4).double(), torch.randn(5, 7).double()
    s, t = gram_by_loops(student), gram_by_loops(teacher)
    expected = sum((a - b) ** 2 for r, q in zip(s, t, strict=True) for a, b in zip(r, q, strict=True)) / 25
    assert float(sp_loss(student, teacher)) == pytest.approx(expected, rel=1e-10)


def test_sp_gradient_equals_finite_differences():
    torch.manual_seed(0)
    student = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: sp_loss(s, teacher), student)
    sp_loss(student, teacher).backward()
    assert teacher.grad is None


def test_sp_ignores_the_scale_of_either_side():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 4).double()
    torch.testing.assert_close(sp_loss(9 * student, teacher / 5), sp_loss(student, teacher))


def test_sp_of_a_zero_sample_is_finite_without_a_huge_gradient():
    student = torch.randn(4, 6)
    student[2] = 0
    student.requires_grad_()
    loss = sp_loss(student, torch.randn(4, 6))
    loss.backward()
    assert torch.isfinite(loss)
    assert float(student.grad.abs().max()) < 10


@pytest.mark.parametrize("batch", [0, 1])
def test_sp_of_too_few_samples_is_a_connected_zero(batch):
    student = torch.randn(batch, 4, requires_grad=True)
    loss = sp_loss(student, torch.randn(batch, 5))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad is not None


def test_sp_refuses_batches_of_different_size():
    with pytest.raises(ValueError, match=r"student \(4, 3\) and teacher \(5, 3\)"):
        sp_loss(torch.zeros(4, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="two dimensions or more"):
        sp_loss(torch.zeros(4), torch.zeros(4))
