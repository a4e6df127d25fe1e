"""Which losses may be averaged over parts of a batch, and which need the whole: checked, not believed."""

import pytest
import torch

from understudy.methods import METHODS


@pytest.fixture(scope="module")
def jobs(worker):
    return worker("jobs")


def value(distiller, columns, rows):
    images, target, index = (column[rows] for column in columns)
    torch.manual_seed(0)
    out = distiller(images, target, index=index)
    return list(out.terms.values())[1].detach()


VARIANTS = sorted([*(set(METHODS) - {"ce", "crd", "fgfi"}), "dist, rows only"]) + [
    f"{name}, balanced" for name in ("cosine", "dino", "feature_l2", "infonce")
]


@pytest.mark.parametrize("label", VARIANTS)
def test_a_loss_is_a_mean_over_samples_or_says_that_it_relates_them(jobs, label):
    distiller = jobs.distiller_of(jobs.term_lists()[label]).eval()
    columns = jobs.global_batch(12)
    whole = value(distiller, columns, slice(0, 12))
    parts = (5 * value(distiller, columns, slice(0, 5)) + 7 * value(distiller, columns, slice(5, 12))) / 12
    adds_up = bool(torch.isclose(parts, whole, rtol=1e-9, atol=0.0))
    assert adds_up != distiller.terms[1].method.relates_samples


def test_cross_entropy_is_a_mean_and_crd_has_a_memory():
    assert not METHODS["ce"]().relates_samples
    assert METHODS["crd"]().relates_samples
