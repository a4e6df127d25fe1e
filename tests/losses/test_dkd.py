import pytest
import torch
from torch.nn import functional as F

from understudy.losses import dkd_loss, kd_loss, nckd_loss, tckd_loss

TARGET = torch.tensor([0, 6, 3, 3, 1])


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_is_tckd_plus_nckd_weighted_by_the_rest_for_every_sample(pair, temperature):
    student, teacher = pair
    p_target = F.softmax(teacher / temperature, dim=1).gather(1, TARGET[:, None]).squeeze(1)
    tckd = tckd_loss(student, teacher, TARGET, temperature, reduction="none")
    nckd = nckd_loss(student, teacher, TARGET, temperature, reduction="none")
    kd = kd_loss(student, teacher, temperature, reduction="none")
    torch.testing.assert_close(tckd + (1 - p_target) * nckd, kd, rtol=1e-11, atol=1e-13)


def test_dkd_is_the_weighted_sum_of_its_parts(pair):
    tckd, nckd = tckd_loss(*pair, TARGET, 2.0), nckd_loss(*pair, TARGET, 2.0)
    torch.testing.assert_close(dkd_loss(*pair, TARGET, 0.5, 3.0, 2.0), 0.5 * tckd + 3 * nckd)


def test_nckd_does_not_see_the_target_logit(pair):
    student, teacher = pair
    hot = F.one_hot(TARGET, 7)
    same = nckd_loss(student + 40 * hot, teacher - 9 * hot, TARGET)
    torch.testing.assert_close(same, nckd_loss(student, teacher, TARGET), rtol=1e-12, atol=0)
    student = student.requires_grad_()
    (gradient,) = torch.autograd.grad(nckd_loss(student, teacher, TARGET), student)
    assert (gradient.gather(1, TARGET[:, None]) == 0).all()


def test_with_two_classes_nckd_is_exactly_zero_and_tckd_is_kd(pair):
    student, teacher, target = pair[0, :, :2].clone().requires_grad_(), pair[1, :, :2], TARGET % 2
    value = nckd_loss(student, teacher, target)
    assert value.item() == 0.0
    assert (torch.autograd.grad(value, student)[0] == 0).all()
    torch.testing.assert_close(tckd_loss(student, teacher, target), kd_loss(student, teacher))


def test_tckd_knows_a_certain_teacher_from_a_more_certain_one():
    # 1 - p underflows to 0 for both in float32; the logsumexp of the rest does not.
    target, teacher = torch.tensor([0]), torch.tensor([[0.0, 0.0, 0.0]])
    near, far = torch.tensor([[50.0, 0.0, 0.0]]), torch.tensor([[100.0, 0.0, 0.0]])
    gap = tckd_loss(far, teacher, target, 1.0) - tckd_loss(near, teacher, target, 1.0)
    assert gap.item() == pytest.approx(50 * 2 / 3, rel=1e-5)


@pytest.mark.parametrize("loss", [dkd_loss, nckd_loss, tckd_loss])
def test_error_for_a_single_class(loss):
    one = torch.zeros(5, 1)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        loss(one, one, torch.zeros(5, dtype=torch.int64))
