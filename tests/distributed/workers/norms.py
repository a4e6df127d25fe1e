"""Batch norms over several processes against the same norms on the whole batch in one."""

import copy

import checks
import torch
from torch import nn
from torch.nn import functional as F

from understudy.engine.distributed import Ranks
from understudy.engine.synced_norm import SyncedNorms

SHAPES = {nn.BatchNorm1d: (10, 3), nn.BatchNorm2d: (10, 3, 4, 5), nn.BatchNorm3d: (10, 3, 2, 3, 2)}


def rows_of(ranks, size=10):
    """Uneven parts: 4 and 6 of 10 on two processes."""
    edges = [0, *(size * (r + 1) // ranks.world - (r + 1 < ranks.world) for r in range(ranks.world))]
    return slice(edges[ranks.rank], edges[ranks.rank + 1])


def compare(ranks: Ranks, norm, shape, steps=2):
    """Trains a norm on parts of batches and a copy of it on whole ones, and compares all that came out."""
    norm, whole = norm.double(), copy.deepcopy(norm).double()
    g, own = torch.Generator().manual_seed(0), rows_of(ranks)
    for _ in range(steps):
        x = 3 + 2 * torch.randn(shape, generator=g, dtype=torch.float64)
        cotangent = torch.randn(shape, generator=g, dtype=torch.float64)
        full = x.clone().requires_grad_()
        expected = whole(full)
        expected.backward(cotangent)
        part = x[own].clone().requires_grad_()
        with SyncedNorms(ranks.world):
            output = norm(part)
        output.backward(cotangent[own])
        torch.testing.assert_close(output, expected[own])
        torch.testing.assert_close(part.grad, full.grad[own], rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(norm.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ranks.total(mine.grad), theirs.grad, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(norm.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def check_every_kind_of_batch_norm_is_that_of_the_whole_batch(ranks):
    for kind, shape in SHAPES.items():
        compare(ranks, kind(3), shape)
        compare(ranks, kind(3, affine=False), shape)
        compare(ranks, kind(3, track_running_stats=False), shape)
        compare(ranks, kind(3, momentum=None, eps=0.1), shape)


def check_the_functional_form_is_answered_too(ranks):
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own, expected = rows_of(ranks), F.batch_norm(x, None, None, training=True)
    with SyncedNorms(ranks.world):
        torch.testing.assert_close(F.batch_norm(x[own], None, None, training=True), expected[own])


def check_one_process_may_hold_one_image(ranks):
    x = torch.randn(ranks.world, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    norm = nn.BatchNorm1d(3).double()
    with SyncedNorms(ranks.world):
        output = norm(x[ranks.rank : ranks.rank + 1])
    torch.testing.assert_close(output, nn.BatchNorm1d(3).double()(x)[ranks.rank : ranks.rank + 1])


def check_large_means_do_not_cancel(ranks):
    """In float32 a sum of squares would lose the variance altogether."""
    x = 1e4 + torch.randn(10, 3, generator=torch.Generator().manual_seed(2))
    with SyncedNorms(ranks.world):
        output = nn.BatchNorm1d(3)(x[rows_of(ranks)])
    exact = nn.BatchNorm1d(3).double()(x.double())[rows_of(ranks)]
    torch.testing.assert_close(output.double(), exact, rtol=0, atol=0.01)


def check_half_precision_is_summed_in_float32(ranks):
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(3)).bfloat16()
    with SyncedNorms(ranks.world):
        output = nn.BatchNorm1d(3)(x[rows_of(ranks)])
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, nn.BatchNorm1d(3)(x.float())[rows_of(ranks)].bfloat16())


def check_eval_mode_needs_nobody_else(ranks):
    norm, x = nn.BatchNorm1d(3).eval(), torch.randn(4, 3)
    if ranks.is_first:  # it would hang if it asked
        with SyncedNorms(ranks.world):
            torch.testing.assert_close(norm(x), x / (1 + 1e-5) ** 0.5)


def check_a_second_gradient_over_the_same_graph_is_the_same(ranks):
    norm = nn.BatchNorm1d(3).double()
    part = torch.randn(10, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)[rows_of(ranks)]
    part.requires_grad_()
    with SyncedNorms(ranks.world):
        loss = norm(part).pow(3).sum()
    first = torch.autograd.grad(loss, [part, *norm.parameters()], retain_graph=True)
    again = torch.autograd.grad(loss, [part, *norm.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


if __name__ == "__main__":
    checks.run(dict(globals()))
