"""Flow of solution procedure against loops."""

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import fsp_loss


def flow_by_loops(bottom, top):
    """Flattened (B, C_top, C_bottom) of two maps of one size."""
    values = []
    for low, high in zip(bottom.flatten(2).tolist(), top.flatten(2).tolist(), strict=True):
        for row in high:
            values += [sum(a * b for a, b in zip(row, other, strict=True)) / len(row) for other in low]
    return values


def mean_square(first, second):
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / len(first)


def test_fsp_equals_loops_over_consecutive_taps():
    torch.manual_seed(0)
    students = [torch.randn(2, c, 3, 2).double() for c in (2, 4, 3)]
    teachers = [torch.randn(2, c, 4, 4).double() for c in (2, 4, 3)]  # another size: only channels must agree
    expected = sum(
        mean_square(flow_by_loops(*students[i : i + 2]), flow_by_loops(*teachers[i : i + 2])) for i in (0, 1)
    )
    assert float(fsp_loss(students, teachers)) == pytest.approx(expected, rel=1e-10)


def test_fsp_pools_the_larger_of_two_consecutive_maps_in_either_order():
    torch.manual_seed(0)
    small, large = torch.randn(2, 3, 3, 3).double(), torch.randn(2, 4, 6, 6).double()
    pooled = large.view(2, 4, 3, 2, 3, 2).mean(dim=(3, 5))
    zeros = [torch.zeros_like(small), torch.zeros_like(large)]
    down = sum(x * x for x in flow_by_loops(pooled, small)) / 24
    up = sum(x * x for x in flow_by_loops(small, pooled)) / 24
    assert float(fsp_loss([large, small], zeros[::-1])) == pytest.approx(down, rel=1e-10)
    assert float(fsp_loss([small, large], zeros)) == pytest.approx(up, rel=1e-10)


def test_fsp_gradient_equals_finite_differences_for_every_tap():
    torch.manual_seed(0)
    low = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    high = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    teachers = [torch.randn_like(low), torch.randn_like(high)]
    assert gradcheck(lambda a, b: fsp_loss([a, b], teachers), (low, high))


def test_fsp_of_equal_maps_is_zero_with_zero_gradient():
    students = [torch.randn(2, c, 4, 4, requires_grad=True) for c in (2, 3)]
    loss = fsp_loss(students, [s.detach().clone() for s in students])
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.equal(s.grad, torch.zeros_like(s)) for s in students)


def test_fsp_of_an_empty_batch_is_a_connected_zero():
    students = [torch.zeros(0, 2, 4, 4, requires_grad=True), torch.zeros(0, 3, 2, 2, requires_grad=True)]
    loss = fsp_loss(students, [s.detach() for s in students])
    loss.backward()
    assert loss.item() == 0.0
    assert all(s.grad is not None for s in students)


def test_fsp_refuses_one_tap_and_unequal_channels():
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="at least 2 taps, got 1"):
        fsp_loss([maps], [maps])
    with pytest.raises(
        ValueError, match=r"equal channels, got student \(2, 3, 4, 4\) and teacher \(2, 2, 4, 4\)"
    ):
        fsp_loss([maps, maps], [maps, maps[:, :2]])
