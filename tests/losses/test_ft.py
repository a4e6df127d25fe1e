"""Factor transfer against loops."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import ft_loss


def energies_by_loops(factor):
    rows = []
    for sample in factor.flatten(2).tolist():
        row = [sum(c[i] ** 2 for c in sample) / len(sample) for i in range(len(sample[0]))]
        norm = max(math.sqrt(sum(x * x for x in row)), 1e-12)
        rows.append([x / norm for x in row])
    return rows


def test_ft_equals_loops_for_unequal_channels():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 3, 2).double(), torch.randn(3, 6, 3, 2).double()
    s, t = energies_by_loops(student), energies_by_loops(teacher)
    expected = sum(abs(a - b) for r, q in zip(s, t, strict=True) for a, b in zip(r, q, strict=True)) / 18
    assert float(ft_loss(student, teacher)) == pytest.approx(expected, rel=1e-12)


def test_ft_pools_the_larger_factor_even_to_sizes_that_do_not_divide_it():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 5).double(), torch.randn(2, 3, 2, 2).double()
    quarters = [student[:, :, h : h + 3, w : w + 3].mean(dim=(2, 3)) for h in (0, 2) for w in (0, 2)]
    pooled = torch.stack(quarters, dim=2).view(2, 3, 2, 2)
    torch.testing.assert_close(ft_loss(student, teacher), ft_loss(pooled, teacher))


def test_ft_gradient_equals_finite_differences():
    torch.manual_seed(0)
    student = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: ft_loss(s, teacher), student)
    ft_loss(student, teacher).backward()
    assert teacher.grad is None


def test_ft_of_equal_factors_is_zero_with_zero_gradient():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = ft_loss(student, student.detach().clone())
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_ft_of_a_zero_factor_is_finite_with_zero_gradient():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = ft_loss(student, torch.randn(2, 3, 4, 4))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_ft_of_an_empty_batch_is_a_connected_zero():
    student = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = ft_loss(student, torch.zeros(0, 5, 2, 2))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def test_ft_wants_maps():
    with pytest.raises(ValueError, match="factor must have 4 dimensions"):
        ft_loss(torch.zeros(2, 3), torch.zeros(2, 3))
