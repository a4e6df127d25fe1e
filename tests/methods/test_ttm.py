import torch
from torch import nn

from understudy.interface import Batch
from understudy.losses import kd_loss, ttm_loss, wttm_loss
from understudy.methods.ttm import TTM, WTTM


def losses(gamma):
    student, teacher = torch.randn(6, 5), 3 * torch.randn(6, 5)
    batch = Batch(torch.zeros(6, 3, 8, 8), torch.zeros(6, dtype=torch.int64))
    shown = {"logits": student}, {"logits": teacher}, batch, nn.ModuleDict()
    return TTM(gamma=gamma).loss(*shown), WTTM(gamma=gamma).loss(*shown), student, teacher


def test_gamma_reaches_both_losses():
    ttm, wttm, student, teacher = losses(0.3)
    assert torch.equal(ttm, ttm_loss(student, teacher, gamma=0.3))
    assert torch.equal(wttm, wttm_loss(student, teacher, gamma=0.3))


def test_a_gamma_of_one_is_plain_distillation_at_temperature_one():
    ttm, wttm, student, teacher = losses(1.0)
    torch.testing.assert_close(ttm, kd_loss(student, teacher, temperature=1.0))
    torch.testing.assert_close(wttm, ttm)


def test_the_defaults_are_the_published_ones():
    assert (TTM().gamma, WTTM().gamma) == (0.1, 0.2)
