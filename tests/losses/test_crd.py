"""Contrastive representation distillation against loops."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from understudy.losses import crd_loss, crd_normalizer, crd_update


def example(batch=3, num=12, width=4, negatives=5, seed=0):
    torch.manual_seed(seed)
    unit = [F.normalize(torch.randn(n, width).double(), dim=1) for n in (batch, batch, num, num)]
    return (*unit, torch.randperm(num)[:batch], torch.randint(0, num, (batch, negatives)))


def one_side_by_loops(embedding, memory, index, negatives, normalizer, temperature):
    v, bank = embedding.tolist(), memory.tolist()
    num_negatives = negatives.shape[1]
    c, eps, total = num_negatives / len(bank), 1e-7, 0.0
    for i, vector in enumerate(v):
        for k, row in enumerate([int(index[i]), *negatives[i].tolist()]):
            score = sum(a * b for a, b in zip(bank[row], vector, strict=True))
            x = math.exp(score / temperature) / normalizer
            total += math.log((x if k == 0 else c) / (x + c + eps))
    return -total / len(v)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("num", [12, 200])  # all scores at once, and gathered rows: 12 and 200 against 6 · 4
def test_crd_equals_loops_each_embedding_against_the_other_memory(num, temperature):
    s, t, bank_s, bank_t, index, negatives = example(num=num)
    expected = one_side_by_loops(s, bank_t, index, negatives, 30.0, temperature)
    expected += one_side_by_loops(t, bank_s, index, negatives, 20.0, temperature)
    got = crd_loss(s, t, bank_s, bank_t, index, negatives, 30.0, torch.tensor(20.0), temperature)
    assert got.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("num", [12, 200])
def test_crd_gradient_reaches_both_embeddings_and_no_memory(num):
    s, t, bank_s, bank_t, index, negatives = example(num=num)
    for tensor in (s, t, bank_s, bank_t):
        tensor.requires_grad_()
    assert gradcheck(lambda a, b: crd_loss(a, b, bank_s, bank_t, index, negatives, 30.0, 20.0, 0.5), (s, t))
    crd_loss(s, t, bank_s, bank_t, index, negatives, 30.0, 20.0).backward()
    assert bank_s.grad is None
    assert bank_t.grad is None


def test_crd_is_finite_where_its_exponential_overflows():
    s, t, bank_s, bank_t, index, negatives = (x.float() if x.is_floating_point() else x for x in example())
    s.requires_grad_()
    loss = crd_loss(s, t, bank_s, bank_t, index, negatives, 30.0, 20.0, temperature=0.005)  # exp(200)
    loss.backward()
    assert torch.isfinite(loss)
    assert s.grad.isfinite().all()


def test_crd_of_an_empty_batch_is_a_connected_zero():
    s, t, bank_s, bank_t, index, negatives = example(batch=0)
    s.requires_grad_()
    loss = crd_loss(s, t, bank_s, bank_t, index, negatives, 30.0, 20.0)
    loss.backward()
    assert loss.item() == 0.0
    assert s.grad is not None


def test_crd_normalizer_is_n_times_the_mean_exponential():
    s, _, _, bank, index, negatives = example()
    rows = torch.cat([index[:, None], negatives], dim=1)
    scores = [[float(bank[j] @ s[i]) for j in row] for i, row in enumerate(rows.tolist())]
    expected = 12 * sum(math.exp(x / 0.07) for row in scores for x in row) / 18
    assert float(crd_normalizer(s, bank, index, negatives)) == pytest.approx(expected, rel=1e-10)
    assert not crd_normalizer(s.requires_grad_(), bank, index, negatives).requires_grad
    alone = 12 * sum(math.exp(x / 0.07) for x in scores[0][:2]) / 2
    assert float(crd_normalizer(s[:1], bank, index[:1], negatives[:1, :1])) == pytest.approx(alone, rel=1e-10)
    with pytest.raises(ValueError, match="at least 1 sample"):
        crd_normalizer(s[:0], bank, index[:0], negatives[:0])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_crd_update_mixes_and_normalises_the_rows_and_leaves_the_memory_alone(momentum):
    s, _, bank, _, index, _ = example()
    before = bank.clone()
    rows = crd_update(bank, index, s.requires_grad_(), momentum)
    for row, i, v in zip(rows.tolist(), index.tolist(), s.tolist(), strict=True):
        mixed = [momentum * a + (1 - momentum) * b for a, b in zip(before[i].tolist(), v, strict=True)]
        norm = math.sqrt(sum(x * x for x in mixed))
        assert row == pytest.approx([x / norm for x in mixed], rel=1e-12)
    assert not rows.requires_grad
    assert torch.equal(bank, before)


def test_crd_update_of_opposite_vectors_is_finite():
    assert torch.equal(crd_update(torch.eye(2), torch.tensor([1]), -torch.eye(2)[1:]), torch.zeros(1, 2))


def test_crd_refuses_arguments_that_do_not_fit():
    s, t, bank_s, bank_t, index, negatives = example()
    with pytest.raises(ValueError, match=r"embedding \(3, 4\) and memory \(12, 5\)"):
        crd_loss(s, t, torch.zeros(12, 5), torch.zeros(12, 5), index, negatives, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"index must be int64 of shape \(3,\), got torch.int32"):
        crd_loss(s, t, bank_s, bank_t, index.int(), negatives, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"negative_index must have shape \(B, K\)"):
        crd_loss(s, t, bank_s, bank_t, index, negatives[:, :0], 1.0, 1.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        crd_loss(s, t, bank_s, bank_t, index, negatives, 1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\], got 2"):
        crd_update(bank_s, index, s, 2)


def test_no_gradient_reaches_the_normalizers():
    s, t, bank_s, bank_t, index, negatives = example()
    z = [torch.tensor(30.0, requires_grad=True), torch.tensor(20.0, requires_grad=True)]
    loss = crd_loss(s.requires_grad_(), t, bank_s, bank_t, index, negatives, *z)
    assert torch.autograd.grad(loss, z, allow_unused=True) == (None, None)
