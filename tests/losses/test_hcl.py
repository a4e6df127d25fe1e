"""Hierarchical context loss against loops."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import hcl_loss


def pooled_by_loops(rows, size):
    """Adaptive average pooling of one H×W list of lists."""
    h, w = len(rows), len(rows[0])

    def edges(i, n):
        return range(i * n // size, math.ceil((i + 1) * n / size))

    return [
        sum(rows[y][x] for y in edges(i, h) for x in edges(j, w)) / len(edges(i, h)) / len(edges(j, w))
        for i in range(size)
        for j in range(size)
    ]


def level_by_loops(student, teacher):
    maps = list(zip(student.flatten(0, 1).tolist(), teacher.flatten(0, 1).tolist(), strict=True))
    height = student.shape[2]

    def mean_square(pairs):
        squares = [(a - b) ** 2 for s, t in pairs for a, b in zip(s, t, strict=True)]
        return sum(squares) / len(squares)

    total = mean_square([([x for r in s for x in r], [x for r in t for x in r]) for s, t in maps])
    weight, weights = 1.0, 1.0
    for size in (4, 2, 1):
        if size < height:
            weight /= 2
            weights += weight
            total += weight * mean_square(
                [(pooled_by_loops(s, size), pooled_by_loops(t, size)) for s, t in maps]
            )
    return total / weights


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (4, 4), (3, 6), (2, 2), (1, 1), (5, 2)])
def test_hcl_equals_loops_at_every_size(size):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, *size).double(), torch.randn(2, 3, *size).double()
    expected = level_by_loops(student, teacher)
    assert float(hcl_loss([student], [teacher])) == pytest.approx(expected, rel=1e-10)


def test_hcl_sums_its_levels():
    torch.manual_seed(0)
    students = [torch.randn(2, c, n, n).double() for c, n in ((2, 8), (3, 4), (5, 1))]
    teachers = [torch.randn_like(s) for s in students]
    each = sum(hcl_loss([s], [t]) for s, t in zip(students, teachers, strict=True))
    torch.testing.assert_close(hcl_loss(students, teachers), each)


def test_hcl_gradient_equals_finite_differences():
    torch.manual_seed(0)
    student = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    assert gradcheck(lambda s: hcl_loss([s], [teacher]), student)


def test_hcl_of_equal_maps_is_zero_with_zero_gradient():
    student = torch.randn(2, 3, 8, 8, requires_grad=True)
    loss = hcl_loss([student], [student.detach().clone()])
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_hcl_of_an_empty_batch_is_a_connected_zero():
    student = torch.zeros(0, 3, 8, 8, requires_grad=True)
    loss = hcl_loss([student], [torch.zeros(0, 3, 8, 8)])
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def test_hcl_refuses_unequal_levels():
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        hcl_loss([], [])
    with pytest.raises(ValueError, match=r"student \(2, 3, 4, 4\) and teacher \(2, 3, 8, 8\)"):
        hcl_loss([torch.zeros(2, 3, 4, 4)], [torch.zeros(2, 3, 8, 8)])
    with pytest.raises(ValueError, match="4 dimensions"):
        hcl_loss([torch.zeros(2, 3)], [torch.zeros(2, 3)])
