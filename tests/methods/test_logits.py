"""Logit standardisation, the switch that the logit methods share."""

import dataclasses

import pytest
import torch

from understudy.interface import Batch
from understudy.losses import dkd_loss, kd_loss, standardise_logits
from understudy.methods import METHODS, Method

STANDARDISED = ("binary_kl", "binary_kl_norm", "dist", "dkd", "kd", "logit_mse", "nckd", "tckd")
NEVER = ("ttm", "wsld", "wttm")  # the reasons stand in their docstrings


def loss(method: Method, student, teacher):
    g = torch.Generator().manual_seed(2)
    batch = Batch(torch.zeros(0), torch.randint(5, (6,), generator=g))
    return method.loss({"logits": student}, {"logits": teacher}, batch, None)


def logits(seed):
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_these_methods_have_the_switch_and_it_is_off():
    with_switch = {
        name: field.default
        for name, method in METHODS.items()
        for field in dataclasses.fields(method)
        if field.name == "standardise"
    }
    assert with_switch == dict.fromkeys(STANDARDISED, False)
    assert all(name in METHODS for name in NEVER)


@pytest.mark.parametrize("name", STANDARDISED)
def test_the_student_is_free_in_level_and_scale_of_each_row(name):
    student, teacher = logits(0), logits(1)
    scale = torch.linspace(0.2, 4, 6, dtype=torch.float64)[:, None]
    moved, moved_teacher = scale * student + 3 * scale, 5 * teacher - 1
    free = METHODS[name](standardise=True)
    torch.testing.assert_close(
        loss(free, moved, moved_teacher), loss(free, student, teacher), rtol=1e-5, atol=1e-9
    )
    bound = METHODS[name]()
    assert (loss(bound, moved, teacher) - loss(bound, student, teacher)).abs() > 1e-3


def test_it_is_the_loss_of_standardised_logits():
    student, teacher = logits(0), logits(1)
    ours, theirs = standardise_logits(student), standardise_logits(teacher)
    kd = METHODS["kd"](temperature=2.0, standardise=True)
    assert torch.equal(loss(kd, student, teacher), kd_loss(ours, theirs, temperature=2.0))
    target = torch.randint(5, (6,), generator=torch.Generator().manual_seed(2))
    dkd = METHODS["dkd"](alpha=0.5, beta=2.0, temperature=3.0, standardise=True)
    expected = dkd_loss(ours, theirs, target, alpha=0.5, beta=2.0, temperature=3.0)
    assert torch.equal(loss(dkd, student, teacher), expected)
