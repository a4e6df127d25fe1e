"""Distillation of singular vectors against a decomposition of each sample."""

import math
from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import kdsvd_loss


def decomposed(sample, count):
    """Singular values and the rows of Vᵀ of one map, by torch's own singular value decomposition."""
    _, values, rows = torch.linalg.svd(sample.flatten(1).T, full_matrices=False)
    return values[:count], rows[:count]


def kdsvd_by_loops(students, teachers, k):
    """The loss with differentiable decompositions, one sample and one pair of channels at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for b in range(students[0].shape[0]):
        taps = []
        for student, teacher in zip(students, teachers, strict=True):
            values, own = decomposed(teacher[b], k)
            _, offered = decomposed(student[b], k + 3)
            values = values / math.sqrt(sum(float(v) ** 2 for v in values))
            pairs = []
            for value, row in zip(values, own, strict=True):
                row = row if float(row.sum()) >= 0 else -row
                cosines = [float(other.detach() @ row) for other in offered]
                best = max(range(len(cosines)), key=lambda i, c=cosines: abs(c[i]))
                pairs.append((offered[best] * (1 if cosines[best] > 0 else -1) * value, row * value))
            taps.append(pairs)
        for first, second in pairwise(taps):
            for (s_a, t_a), (s_b, t_b) in zip(first, second, strict=False):
                for i in range(len(s_a)):
                    for j in range(len(s_b)):
                        difference = torch.exp(-((s_a[i] - s_b[j]) ** 2) / 8) - math.exp(
                            -((t_a[i] - t_b[j]) ** 2) / 8
                        )
                        total = total + difference**2
    return total / students[0].shape[0]


def maps(*shapes, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(2, *shape).double() + 0.7 for shape in shapes]


TALL = ((3, 4, 4), (5, 3, 3))
"""More locations than channels: FᵀF is decomposed."""
WIDE = ((6, 2, 1), (5, 2, 2))
"""Fewer: FFᵀ is, and part of the gradient points out of the span."""


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("shapes", [TALL, WIDE])
def test_kdsvd_equals_loops(shapes, k):
    students, teachers = maps(*shapes), maps(*shapes, seed=1)
    expected = float(kdsvd_by_loops(students, teachers, k))
    assert expected > 1e-4
    assert float(kdsvd_loss(students, teachers, k=k)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("shapes", [TALL, WIDE])
def test_kdsvd_gradient_equals_that_through_the_decomposition_itself(shapes, k):
    students, teachers = maps(*shapes), maps(*shapes, seed=1)
    for student in students:
        student.requires_grad_()
    got = torch.autograd.grad(kdsvd_loss(students, teachers, k=k), students)
    expected = torch.autograd.grad(kdsvd_by_loops(students, teachers, k), students)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("shapes", [TALL, WIDE])
def test_kdsvd_gradient_equals_finite_differences(shapes):
    students, teachers = maps(*shapes), maps(*shapes, seed=1)
    for student in students:
        student.requires_grad_()
    assert gradcheck(lambda *s: kdsvd_loss(s, teachers, k=2), students, atol=1e-6)


def test_kdsvd_accepts_another_size_and_ignores_the_scale_of_the_maps():
    students, teachers = maps(*TALL), maps((3, 5, 5), (5, 2, 2), seed=1)
    scaled = kdsvd_loss([5 * s for s in students], [t / 3 for t in teachers])
    torch.testing.assert_close(scaled, kdsvd_loss(students, teachers))


def test_kdsvd_of_equal_maps_is_zero_with_zero_gradient():
    students = [m.float().requires_grad_() for m in maps(*TALL)]
    loss = kdsvd_loss(students, [s.detach().clone() for s in students], k=2)
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.equal(s.grad, torch.zeros_like(s)) for s in students)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_kdsvd_of_maps_with_repeated_singular_values_is_finite(value):
    students = [torch.full((2, *shape), value, requires_grad=True) for shape in TALL]
    loss = kdsvd_loss(students, [m.float() for m in maps(*TALL, seed=1)], k=2)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(s.grad.isfinite().all() for s in students)


def test_kdsvd_drops_samples_that_are_not_finite():
    students, teachers = maps(*TALL), maps(*TALL, seed=1)
    only_second = kdsvd_loss([s[1:] for s in students], [t[1:] for t in teachers]) / 2
    students[0][0, 0, 0, 0] = math.nan
    torch.testing.assert_close(kdsvd_loss(students, teachers), only_second)


def test_kdsvd_of_an_empty_batch_is_a_connected_zero():
    students = [torch.zeros(0, *shape, requires_grad=True) for shape in TALL]
    loss = kdsvd_loss(students, [torch.zeros(0, *shape) for shape in TALL])
    loss.backward()
    assert loss.item() == 0.0
    assert all(s.grad is not None for s in students)


def test_kdsvd_refuses_one_tap_unequal_channels_and_no_vector():
    one = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="at least 2 taps, got 1"):
        kdsvd_loss([one], [one])
    with pytest.raises(ValueError, match="equal channels"):
        kdsvd_loss([one, one], [one, one[:, :2]])
    with pytest.raises(ValueError, match="k must be 1 or more, got 0"):
        kdsvd_loss([one, one], [one, one], k=0)
