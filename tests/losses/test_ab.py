"""Activation boundaries against loops."""

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import ab_loss


def ab_by_loops(students, teachers, margin):
    total = 0.0
    for k, (student, teacher) in enumerate(zip(students, teachers, strict=True), start=1):
        stage = 0.0
        for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
            if t <= 0 and s > -margin:
                stage += (s + margin) ** 2
            if t > 0 and s <= margin:
                stage += (s - margin) ** 2
        total += stage / student.shape[0] * 0.003 / 2 ** (len(students) - k)
    return total


@pytest.mark.parametrize("margin", [1.0, 2.0, 0.0])
def test_ab_equals_loops_with_half_the_weight_for_each_earlier_stage(margin):
    torch.manual_seed(0)
    students = [torch.randn(2, c, n, n).double() for c, n in ((2, 4), (3, 2), (4, 1))]
    teachers = [torch.randn_like(s) for s in students]
    teachers[0][0, 0, 0, 0] = 0.0  # exactly 0 is silent
    expected = ab_by_loops(students, teachers, margin)
    assert float(ab_loss(students, teachers, margin=margin)) == pytest.approx(expected, rel=1e-12)


def test_a_teacher_that_is_not_a_number_is_not_taken_for_silent():
    student, teacher = torch.zeros(2, 3), torch.zeros(2, 3)
    teacher[0, 0] = torch.nan
    assert ab_loss([student], [teacher]).isnan()


def test_ab_gradient_equals_finite_differences():
    torch.manual_seed(0)
    student = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: ab_loss([s], [teacher]), student)
    ab_loss([student], [teacher]).backward()
    assert teacher.grad is None


def test_ab_is_zero_beyond_the_margin_on_the_teachers_side():
    student = torch.tensor([[1.5, -1.5]], requires_grad=True)
    loss = ab_loss([student], [torch.tensor([[0.1, -0.1]])])
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_ab_passes_a_nan_of_the_student_on():
    assert ab_loss([torch.tensor([[float("nan")]])], [torch.tensor([[1.0]])]).isnan()


def test_ab_of_an_empty_batch_is_a_connected_zero():
    student = torch.zeros(0, 3, 2, 2, requires_grad=True)
    loss = ab_loss([student], [torch.zeros(0, 3, 2, 2)])
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def test_ab_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"student \(2, 3, 4, 4\) and teacher \(2, 4, 4, 4\)"):
        ab_loss([torch.zeros(2, 3, 4, 4)], [torch.zeros(2, 4, 4, 4)])
