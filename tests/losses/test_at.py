"""Attention transfer against loops."""

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import at_loss


def attention_by_loops(feature, p):
    rows = []
    for sample in feature.tolist():
        channels, height, width = len(sample), len(sample[0]), len(sample[0][0])
        row = [
            sum(abs(sample[c][h][w]) ** p for c in range(channels)) / channels
            for h in range(height)
            for w in range(width)
        ]
        norm = max(sum(x * x for x in row) ** 0.5, 1e-12)
        rows.append([x / norm for x in row])
    return rows


@pytest.mark.parametrize("p", [1, 2, 3, 2.5])
def test_at_equals_loops_for_any_power_and_unequal_channels(p):
    torch.manual_seed(0)
    students = [torch.randn(2, 3, 4, 3).double(), torch.randn(2, 2, 2, 2).double()]
    teachers = [torch.randn(2, 5, 4, 3).double(), torch.randn(2, 2, 2, 2).double()]
    expected = 0.0
    for student, teacher in zip(students, teachers, strict=True):
        s, t = attention_by_loops(student, p), attention_by_loops(teacher, p)
        squares = [(a - b) ** 2 for r, q in zip(s, t, strict=True) for a, b in zip(r, q, strict=True)]
        expected += sum(squares) / len(squares)
    assert float(at_loss(students, teachers, p=p)) == pytest.approx(expected, rel=1e-10)


def test_at_pools_the_larger_map_whichever_side_it_is_on():
    torch.manual_seed(0)
    small, large = torch.randn(2, 3, 3, 3).double(), torch.randn(2, 4, 6, 6).double()
    pooled = large.view(2, 4, 3, 2, 3, 2).mean(dim=(3, 5))
    torch.testing.assert_close(at_loss([small], [large]), at_loss([small], [pooled]))
    torch.testing.assert_close(at_loss([large], [small]), at_loss([pooled], [small]))


def test_at_gradient_equals_finite_differences():
    torch.manual_seed(0)
    student = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert gradcheck(lambda s: at_loss([s], [teacher]), student)
    assert gradcheck(lambda s: at_loss([s], [teacher], p=3), student)


def test_at_ignores_the_strength_of_a_map():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 2, 4, 4).double(), torch.randn(3, 4, 4, 4).double()
    torch.testing.assert_close(at_loss([7 * student], [teacher / 9]), at_loss([student], [teacher]))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_at_of_a_zero_map_is_finite_with_zero_gradient(p):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = at_loss([student], [torch.randn(2, 3, 4, 4)], p=p)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_at_of_equal_maps_is_zero_with_zero_gradient():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = at_loss([student], [student.detach().clone()])
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_at_refuses_what_it_cannot_compare():
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="equally many features"):
        at_loss([maps], [maps, maps])
    with pytest.raises(ValueError, match=r"student \(2, 3, 4, 4\) and teacher \(3, 3, 4, 4\)"):
        at_loss([maps], [torch.zeros(3, 3, 4, 4)])
    with pytest.raises(ValueError, match="4 dimensions"):
        at_loss([maps.flatten(2)], [maps.flatten(2)])
    with pytest.raises(ValueError, match="p must be 1 or more and finite, got 0"):
        at_loss([maps], [maps], p=0)
    with pytest.raises(ValueError, match="p must be 1 or more and finite, got inf"):
        at_loss([maps], [maps], p=float("inf"))
