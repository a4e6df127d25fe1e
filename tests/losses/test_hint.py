"""Hints against loops."""

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import hint_loss


def test_hint_is_the_mean_square_over_all_elements():
    student, teacher = torch.randn(2, 3, 2, 2).double(), torch.randn(2, 3, 2, 2).double()
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = sum((s - t) ** 2 for s, t in pairs) / 24
    assert float(hint_loss(student, teacher)) == pytest.approx(expected, rel=1e-12)


def test_hint_gradient_equals_finite_differences_and_leaves_the_teacher_alone():
    student = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: hint_loss(s, teacher), student)
    hint_loss(student, teacher).backward()
    assert teacher.grad is None


def test_hint_of_equal_maps_is_zero_with_zero_gradient():
    student = torch.randn(3, 2, 4, 4, requires_grad=True)
    loss = hint_loss(student, student.detach().clone())
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_hint_of_an_empty_batch_is_a_connected_zero():
    student = torch.randn(0, 4, requires_grad=True)
    loss = hint_loss(student, torch.randn(0, 4))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def test_hint_says_both_shapes_when_they_differ():
    with pytest.raises(ValueError, match=r"student \(2, 3\) and teacher \(2, 4\)"):
        hint_loss(torch.zeros(2, 3), torch.zeros(2, 4))
