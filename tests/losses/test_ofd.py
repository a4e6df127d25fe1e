"""Overhaul of feature distillation: partial distance against loops, margins against integration."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import ofd_loss, ofd_margin


def test_ofd_equals_loops():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 3, 2).double(), torch.randn(2, 3, 3, 2).double()
    margin = -torch.rand(3).double()
    expected = 0.0
    for c, m in enumerate(margin.tolist()):
        pairs = zip(student[:, c].flatten().tolist(), teacher[:, c].flatten().tolist(), strict=True)
        for s, t in pairs:
            goal = max(t, m)
            expected += (s - goal) ** 2 if s > goal or t > 0 else 0.0
    assert float(ofd_loss(student, teacher, margin)) == pytest.approx(expected / 2, rel=1e-12)


def test_ofd_gradient_equals_finite_differences_and_reaches_the_student_only():
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    margin = (-torch.rand(3).double()).requires_grad_()
    assert gradcheck(lambda s: ofd_loss(s, teacher, margin), student)
    ofd_loss(student, teacher, margin).backward()
    assert teacher.grad is None
    assert margin.grad is None


def test_ofd_leaves_a_student_below_the_margin_of_a_silent_teacher_alone():
    student = torch.full((1, 1, 2, 2), -9.0, requires_grad=True)
    loss = ofd_loss(student, torch.full((1, 1, 2, 2), -0.5), torch.tensor([-1.0]))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_ofd_of_equal_maps_is_zero_with_zero_gradient():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = ofd_loss(student, student.detach().clone(), -torch.rand(3))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_ofd_passes_a_nan_of_the_student_on():
    student = torch.full((1, 1, 1, 1), math.nan)
    assert ofd_loss(student, torch.full((1, 1, 1, 1), -5.0), torch.tensor([-1.0])).isnan()


def test_ofd_of_an_empty_batch_is_a_connected_zero():
    student = torch.zeros(0, 3, 2, 2, requires_grad=True)
    loss = ofd_loss(student, torch.zeros(0, 3, 2, 2), torch.zeros(3))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def test_ofd_wants_one_margin_a_channel():
    with pytest.raises(ValueError, match=r"margin \(2,\) and features \(2, 3, 4, 4\)"):
        ofd_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(2))


def mean_below_zero(mean, std, steps=200_000):
    """Midpoint rule for E[x | x < 0], x normal."""
    low = min(mean, 0.0) - 12 * std
    width = -low / steps
    points = [low + (i + 0.5) * width for i in range(steps)]
    weights = [math.exp(-0.5 * ((x - mean) / std) ** 2) for x in points]
    return sum(x * w for x, w in zip(points, weights, strict=True)) / sum(weights)


@pytest.mark.parametrize(("weight", "bias"), [(1.0, 0.0), (-0.5, 0.3), (2.0, -3.0), (0.3, 0.9), (0.1, -4.0)])
def test_ofd_margin_is_the_mean_of_the_negative_part(weight, bias):
    margin = ofd_margin(torch.tensor([weight]).double(), torch.tensor([bias]).double())
    assert float(margin) == pytest.approx(mean_below_zero(bias, abs(weight)), rel=1e-6)


def test_ofd_margin_of_a_channel_that_is_hardly_ever_negative_is_three_deviations():
    bias = torch.tensor([3.0902, 3.0903, 50.0, 1e30]).double()  # the chance is .001 at 3.09023 deviations
    margin = ofd_margin(torch.ones(4).double(), bias)
    assert float(margin[0]) == pytest.approx(mean_below_zero(3.0902, 1.0), rel=1e-6)
    assert margin[1:].tolist() == [-3.0, -3.0, -3.0]


def test_ofd_margin_of_a_dead_scale_is_the_negative_part_of_the_bias():
    margin = ofd_margin(torch.zeros(3), torch.tensor([-2.0, 0.0, 2.0]))
    assert margin.tolist() == [-2.0, 0.0, 0.0]
    assert margin.dtype == torch.float32


def test_ofd_margin_of_a_vanishing_scale_is_finite():
    margin = ofd_margin(torch.full((2,), 1e-40).double(), torch.tensor([-1.0, 1.0]).double())
    assert margin.tolist() == pytest.approx([-1.0, -3e-40])


def test_ofd_margin_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"weight \(3,\) and bias \(2,\)"):
        ofd_margin(torch.zeros(3), torch.zeros(2))


def test_the_margin_asks_for_no_gradient_of_the_teachers_batch_norm():
    weight, bias = torch.rand(3, requires_grad=True), torch.randn(3, requires_grad=True)
    assert not ofd_margin(weight, bias).requires_grad
