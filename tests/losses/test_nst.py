"""Neuron selectivity transfer against loops."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import nst_loss


def channels_by_loops(sample):
    rows = sample.flatten(1).tolist()
    return [[x / max(math.sqrt(sum(y * y for y in row)), 1e-12) for x in row] for row in rows]


def kernel_by_loops(first, second):
    squares = [sum(a * b for a, b in zip(r, q, strict=True)) ** 2 for r in first for q in second]
    return sum(squares) / len(squares)


def nst_by_loops(student, teacher):
    values = []
    for s, t in zip(student, teacher, strict=True):
        s, t = channels_by_loops(s), channels_by_loops(t)
        values.append(kernel_by_loops(t, t) + kernel_by_loops(s, s) - 2 * kernel_by_loops(s, t))
    return sum(values) / len(values)


SHAPES = [
    ((2, 3, 5, 4), (2, 6, 5, 4)),  # through channels
    ((2, 24, 2, 2), (2, 17, 2, 2)),  # through space
    ((2, 8, 3, 3), (2, 8, 3, 3)),
]


@pytest.mark.parametrize(("student_shape", "teacher_shape"), SHAPES)
def test_nst_equals_loops_in_both_forms(student_shape, teacher_shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(student_shape).double(), torch.randn(teacher_shape).double()
    expected = nst_by_loops(student, teacher)
    assert float(nst_loss([student], [teacher])) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("student_shape", "teacher_shape"), SHAPES[:2])
def test_nst_gradient_equals_finite_differences_in_both_forms(student_shape, teacher_shape):
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(student_shape).double().requires_grad_(),
        torch.randn(teacher_shape).double(),
    )
    assert gradcheck(lambda s: nst_loss([s], [teacher]), student)


def test_nst_sums_its_stages_and_pools_the_larger_map():
    torch.manual_seed(0)
    small, large = torch.randn(2, 3, 3, 3).double(), torch.randn(2, 4, 6, 6).double()
    pooled = large.view(2, 4, 3, 2, 3, 2).mean(dim=(3, 5))
    expected = nst_by_loops(small, pooled) + nst_by_loops(pooled, small)
    assert float(nst_loss([small, large], [large, small])) == pytest.approx(expected, rel=1e-10)


def test_nst_ignores_the_order_of_channels_and_their_scale():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 4, 4).double(), torch.randn(2, 6, 4, 4).double()
    scales = torch.rand(1, 6, 1, 1).double() + 0.5
    changed = nst_loss([student.flip(1)], [scales * teacher])
    torch.testing.assert_close(changed, nst_loss([student], [teacher]))


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (2, 20, 2, 2)])
def test_nst_of_equal_maps_is_zero_with_zero_gradient(shape):
    student = torch.randn(shape, requires_grad=True)
    loss = nst_loss([student], [student.detach().clone()])
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-7)
    assert float(student.grad.abs().max()) < 1e-7


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (2, 20, 2, 2)])
def test_nst_of_a_zero_map_is_finite_with_zero_gradient(shape):
    student = torch.zeros(shape, requires_grad=True)
    loss = nst_loss([student], [torch.randn(shape)])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_nst_of_an_empty_batch_is_a_connected_zero():
    student = torch.zeros(0, 3, 6, 6, requires_grad=True)
    loss = nst_loss([student], [torch.zeros(0, 3, 6, 6)])
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def test_nst_refuses_lists_of_different_length():
    with pytest.raises(ValueError, match="at least one, got 1 and 0"):
        nst_loss([torch.zeros(2, 3, 4, 4)], [])
