import pytest
import torch
from torch.nn import functional as F

from understudy.losses import (
    cosine_direction_loss,
    dino_loss,
    feature_l2_loss,
    infonce_direction_loss,
)

TARGET = torch.tensor([2, 0, 2, 1, 2, 0])


@pytest.fixture
def student():
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def means():
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("class_balanced", [False, True])
def test_cosine_is_dino_that_ignores_the_teachers_norm(student, means, class_balanced):
    teacher = torch.ones_like(student)
    want = dino_loss(student, teacher, means, TARGET, 0.0, class_balanced)
    torch.testing.assert_close(cosine_direction_loss(student, means, TARGET, class_balanced), want)


def test_cosine_equals_pytorchs(student, means):
    want = (1 - F.cosine_similarity(student, means[TARGET])).mean()
    torch.testing.assert_close(cosine_direction_loss(student, means, TARGET), want)


def test_infonce_is_the_cross_entropy_of_all_cosines(student, means):
    cosines = F.cosine_similarity(student[:, None], means[None], dim=2)
    torch.testing.assert_close(
        infonce_direction_loss(student, means, TARGET), F.cross_entropy(cosines, TARGET)
    )
    each = F.cross_entropy(cosines, TARGET, reduction="none")
    balanced = torch.stack([each[k == TARGET].mean() for k in range(3)]).mean()
    torch.testing.assert_close(infonce_direction_loss(student, means, TARGET, class_balanced=True), balanced)


def test_infonce_keeps_float32_where_products_may_be_rounded(student, means):
    want = infonce_direction_loss(student, means, TARGET).item()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        got = infonce_direction_loss(student.float(), means.float(), TARGET).item()
    finally:
        torch.set_float32_matmul_precision(before)
    assert got == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("loss", [cosine_direction_loss, infonce_direction_loss])
def test_zero_features_and_absent_classes_pass_no_gradient(loss, student, means):
    student[0], means[1] = 0.0, 0.0  # sample 3 is of class 1
    student.requires_grad_()
    value = loss(student, means, TARGET)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient[0].abs().max() == 0
    if loss is cosine_direction_loss:
        assert gradient[3].abs().max() == 0


def test_l2_sums_over_the_width_and_averages_over_samples_or_classes(student):
    teacher = student.flip(0)
    each = (student - teacher).square().sum(dim=1)
    torch.testing.assert_close(feature_l2_loss(student, teacher), each.mean())
    balanced = torch.stack([each[k == TARGET].mean() for k in range(3)]).mean()
    torch.testing.assert_close(feature_l2_loss(student, teacher, TARGET, class_balanced=True), balanced)


def test_l2_checks_a_target_only_if_there_is_one(student):
    with pytest.raises(ValueError, match="must have a target, got none"):
        feature_l2_loss(student, student, class_balanced=True)
    with pytest.raises(
        ValueError, match=r"target must be int64 of shape \(6,\), got torch.int64 of shape \(5,\)"
    ):
        feature_l2_loss(student, student, TARGET[:5])
