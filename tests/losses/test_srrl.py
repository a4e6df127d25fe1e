"""Softmax regression representation learning against loops."""

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import srrl_loss


def mean_square_by_loops(first, second):
    pairs = list(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def pooled_by_loops(feature):
    means = [sum(c) / len(c) for sample in feature.flatten(2).tolist() for c in sample]
    return torch.tensor(means, dtype=torch.float64)


def test_srrl_equals_loops_and_compares_pooled_vectors():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 5, 2).double(), torch.randn(3, 4, 3, 3).double()
    z_s, z_t = torch.randn(3, 6).double(), torch.randn(3, 6).double()
    expected = 0.5 * mean_square_by_loops(pooled_by_loops(student), pooled_by_loops(teacher))
    expected += 2.0 * mean_square_by_loops(z_s, z_t)
    got = srrl_loss(student, teacher, z_s, z_t, feature_weight=0.5, logit_weight=2.0)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_srrl_accepts_vectors_for_either_side():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    z_s, z_t = torch.randn(3, 6), torch.randn(3, 6)
    expected = srrl_loss(student, teacher, z_s, z_t)
    torch.testing.assert_close(srrl_loss(student.mean((2, 3)), teacher, z_s, z_t), expected)
    torch.testing.assert_close(srrl_loss(student, teacher.mean((2, 3)), z_s, z_t), expected)


def test_srrl_gradient_equals_finite_differences_for_feature_and_logits():
    torch.manual_seed(0)
    student = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    teacher, z_t = torch.randn(2, 3).double().requires_grad_(), torch.randn(2, 4).double().requires_grad_()
    assert gradcheck(lambda s, z: srrl_loss(s, teacher, z, z_t, 0.5, 2.0), (student, logits))
    srrl_loss(student, teacher, logits, z_t).backward()
    assert teacher.grad is None
    assert z_t.grad is None


def test_srrl_of_equal_networks_is_zero_with_zero_gradient():
    student, logits = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    loss = srrl_loss(student, student.detach().clone(), logits, logits.detach().clone())
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_srrl_of_an_empty_batch_is_a_connected_zero():
    student, logits = torch.zeros(0, 3, 2, 2, requires_grad=True), torch.zeros(0, 5, requires_grad=True)
    loss = srrl_loss(student, torch.zeros(0, 3), logits, torch.zeros(0, 5))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None
    assert logits.grad is not None


def test_srrl_refuses_unequal_widths_and_class_spaces():
    maps, logits = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)
    with pytest.raises(ValueError, match=r"student \(2, 3\) and teacher \(2, 4\)"):
        srrl_loss(maps, torch.zeros(2, 4, 4, 4), logits, logits)
    with pytest.raises(ValueError, match=r"student \(2, 5\) and teacher \(2, 6\)"):
        srrl_loss(maps, maps, logits, torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"student_feature must be floating, got torch\.int64"):
        srrl_loss(maps.long(), maps, logits, logits)
