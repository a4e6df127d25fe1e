"""Correlation congruence against loops."""

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import cc_loss


def test_cc_equals_loops_over_neighbours():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    delta = [
        [abs(a - b) for a, b in zip(s, t, strict=True)]
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    expected = sum(sum(a * b for a, b in zip(delta[i], delta[i + 1], strict=True)) for i in range(4)) / 4
    assert float(cc_loss(student, teacher)) == pytest.approx(expected, rel=1e-12)


def test_cc_gradient_equals_finite_differences_for_both_embeddings():
    torch.manual_seed(0)
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(cc_loss, (student, teacher))


def test_cc_depends_on_the_order_of_the_batch():
    student, teacher = torch.tensor([[1.0], [0.0], [2.0]]), torch.zeros(3, 1)
    assert float(cc_loss(student, teacher)) == 0.0
    assert float(cc_loss(student[[0, 2, 1]], teacher)) == 1.0


def test_cc_of_equal_embeddings_is_zero_with_zero_gradient():
    student = torch.randn(4, 3, requires_grad=True)
    loss = cc_loss(student, student.detach().clone())
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_cc_needs_a_pair_of_equal_embeddings():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        cc_loss(torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"student \(2, 3\) and teacher \(2, 4\)"):
        cc_loss(torch.zeros(2, 3), torch.zeros(2, 4))
