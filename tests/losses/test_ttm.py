import pytest
import torch
from torch.nn import functional as F

from understudy.losses import kd_loss, ttm_loss, wttm_loss


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)


def test_both_equal_kd_without_a_temperature_at_power_one(pair):
    want = kd_loss(*pair, 1.0)
    torch.testing.assert_close(ttm_loss(*pair, 1.0), want)
    torch.testing.assert_close(wttm_loss(*pair, 1.0), want)


def test_ttm_is_the_divergence_from_the_normalised_power(pair):
    power = F.softmax(pair[1], dim=1) ** 0.3
    r = power / power.sum(dim=1, keepdim=True)
    want = (r * (r.log() - F.log_softmax(pair[0], dim=1))).sum(dim=1)
    torch.testing.assert_close(ttm_loss(*pair, 0.3, reduction="none"), want)
    torch.testing.assert_close(wttm_loss(*pair, 0.3, reduction="none"), want * power.sum(dim=1))


def test_weight_runs_from_one_for_a_certain_teacher_to_the_most_for_a_flat_one():
    student = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 2)
    teacher = torch.tensor([[1000.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    ratio = wttm_loss(student, teacher, 0.5, reduction="none") / ttm_loss(
        student, teacher, 0.5, reduction="none"
    )
    assert ratio.tolist() == pytest.approx([1.0, 4**0.5])


@pytest.mark.parametrize("gamma", [0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("loss", [ttm_loss, wttm_loss])
def test_a_power_that_turns_the_teacher_around_or_flattens_it_is_refused(pair, loss, gamma):
    with pytest.raises(ValueError, match="gamma must be above 0 and finite, got"):
        loss(*pair, gamma)
