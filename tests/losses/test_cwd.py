"""Channel-wise distillation against loops."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import cwd_loss


def softmax_by_loops(row, temperature):
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_equals_loops_averaged_over_batch_and_channels(temperature):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 2).double(), torch.randn(2, 3, 4, 2).double()
    channels = zip(student.view(6, 8).tolist(), teacher.view(6, 8).tolist(), strict=True)
    expected = 0.0
    for s, t in channels:
        p_s, p_t = softmax_by_loops(s, temperature), softmax_by_loops(t, temperature)
        expected += sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True)) * temperature**2 / 6
    assert float(cwd_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-10)


def test_cwd_gradient_equals_finite_differences():
    torch.manual_seed(0)
    student = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: cwd_loss(s, teacher), student)
    cwd_loss(student, teacher).backward()
    assert teacher.grad is None


def test_cwd_ignores_the_level_of_every_channel():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    moved = cwd_loss(student + torch.randn(2, 3, 1, 1), teacher + torch.randn(2, 3, 1, 1))
    torch.testing.assert_close(moved, cwd_loss(student, teacher))


def test_cwd_of_equal_maps_is_zero_with_zero_gradient():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = cwd_loss(student, student.detach().clone())
    loss.backward()
    assert loss.item() == 0.0
    assert float(student.grad.abs().max()) < 1e-7


def test_cwd_of_huge_gaps_is_finite():
    student = torch.tensor([[[[0.0, 500.0]]]], requires_grad=True)
    loss = cwd_loss(student, torch.tensor([[[[500.0, 0.0]]]]), temperature=0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad.isfinite().all()


def test_cwd_of_an_empty_batch_is_a_connected_zero():
    student = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = cwd_loss(student, torch.zeros(0, 3, 4, 4))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def test_cwd_refuses_unequal_maps_and_a_temperature_of_zero():
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"student \(2, 3, 4, 4\) and teacher \(2, 3, 8, 8\)"):
        cwd_loss(maps, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, got 0"):
        cwd_loss(maps, maps, temperature=0)
