"""Variational information distillation against loops."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from understudy.losses import vid_loss


def vid_by_loops(mean, log_scale, teacher, eps):
    total, count = 0.0, 0
    for b in range(mean.shape[0]):
        for c, scale in enumerate(log_scale.tolist()):
            variance = math.log1p(math.exp(-abs(scale))) + max(scale, 0.0) + eps
            for m, t in zip(mean[b, c].flatten().tolist(), teacher[b, c].flatten().tolist(), strict=True):
                total += 0.5 * ((m - t) ** 2 / variance + math.log(variance))
                count += 1
    return total / count


@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (3, 4), (3, 4, 7)])
def test_vid_equals_loops_for_maps_vectors_and_tokens(shape):
    torch.manual_seed(0)
    mean, teacher = torch.randn(shape).double(), torch.randn(shape).double()
    log_scale = torch.tensor([-30.0, -1.0, 4.987, 25.0], dtype=torch.float64)
    expected = vid_by_loops(mean, log_scale, teacher, 1e-5)
    assert float(vid_loss(mean, log_scale, teacher)) == pytest.approx(expected, rel=1e-10)


def test_vid_gradient_reaches_mean_and_scale_and_equals_finite_differences():
    torch.manual_seed(0)
    mean = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    log_scale = torch.randn(3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda m, s: vid_loss(m, s, teacher), (mean, log_scale))
    vid_loss(mean, log_scale, teacher).backward()
    assert teacher.grad is None


def test_vid_is_smallest_where_the_variance_is_the_mean_square():
    torch.manual_seed(0)
    mean, teacher = torch.randn(4, 1, 3, 3).double(), torch.randn(4, 1, 3, 3).double()
    best = (mean - teacher).square().mean()
    scale = torch.log(torch.expm1(best)).view(1)  # softplus of it is the best variance
    losses = [float(vid_loss(mean, scale + d, teacher, eps=0.0)) for d in (-0.01, 0.0, 0.01)]
    assert losses[1] < min(losses[0], losses[2])


def test_vid_of_extreme_scales_is_finite():
    log_scale = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = vid_loss(torch.ones(1, 2, 2, 2), log_scale, torch.zeros(1, 2, 2, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert log_scale.grad.isfinite().all()


def test_vid_of_an_empty_batch_is_a_connected_zero():
    mean, log_scale = torch.zeros(0, 2, 3, 3, requires_grad=True), torch.ones(2, requires_grad=True)
    loss = vid_loss(mean, log_scale, torch.zeros(0, 2, 3, 3))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(log_scale.grad, torch.zeros(2))


def test_vid_wants_one_scale_a_channel():
    with pytest.raises(ValueError, match=r"log_scale \(4,\) and features \(2, 3, 2, 2\)"):
        vid_loss(torch.zeros(2, 3, 2, 2), torch.zeros(4), torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match="must have one shape"):
        vid_loss(torch.zeros(2, 3, 2, 2), torch.zeros(3), torch.zeros(2, 3, 4, 4))
