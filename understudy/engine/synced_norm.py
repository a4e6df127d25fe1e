"""Batch norms over the images of all processes, on any device, without touching a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SyncedNorms(TorchFunctionMode):
    """While it is entered, every batch norm in training mode takes its statistics over all processes.

    It answers calls of :func:`torch.nn.functional.batch_norm`, which torch's own layers and timm's make. The modules
    stay what they are, so that what is saved and deployed is plain, and torch's SyncBatchNorm (which refuses CPU
    tensors, and whose fused kernels a network on GPUs may be given beforehand) is not needed. Layers that are
    recomputed during the backward pass (activation checkpointing) are recomputed without it: leave batch norms out
    of them, or set ``sync_bn: false``.

    Collective: all processes must enter it and call the same norms in one order.
    """

    def __init__(self, world: int) -> None:
        super().__init__()
        self.world = world

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answers a batch norm in training mode; lets everything else be."""
        del types
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,  # noqa: A002 (torch's own names: they come as keywords)
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        output, mean, variance, count = _SyncedNorm.apply(input, weight, bias, eps, self.world)  # pyright: ignore[reportGeneralTypeIssues]
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            if running_var is not None:
                unbiased = variance * (count / (count - 1).clamp(min=1))
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        return output


class _SyncedNorm(torch.autograd.Function):
    """Normalises by the mean and variance of all processes' images; one message forwards, one backwards."""

    @staticmethod
    def forward(
        ctx: Any, given: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, world: int
    ) -> tuple[Tensor, ...]:
        x = given.to(torch.promote_types(given.dtype, torch.float32))
        mean, variance, count = _statistics(x, world)
        scale = (variance + eps).rsqrt()
        output = (x - _column(mean, x)) * _column(scale if weight is None else scale * weight.to(x.dtype), x)
        if bias is not None:
            output += _column(bias.to(x.dtype), x)
        ctx.save_for_backward(given, weight, bias, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(given.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the names)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        given, weight, bias, mean, scale, count = ctx.saved_tensors
        gradient, x = gradients[0].to(mean.dtype), given.to(mean.dtype)
        others = [d for d in range(x.dim()) if d != 1]
        centred = x - _column(mean, x)
        # (2, C), sums over the own images
        sums = torch.stack([gradient.sum(others), (gradient * centred).sum(others) * scale])
        weight_gradient = sums[1].to(weight.dtype) if weight is not None else None
        bias_gradient = sums[0].to(bias.dtype) if bias is not None else None
        if not ctx.needs_input_grad[0]:
            return None, weight_gradient, bias_gradient, None, None
        # not in place: the parameters' gradients stay the own ones, which are averaged later with all others
        dist.all_reduce(sums := sums.clone())
        shift, slope = (
            sums / count
        )  # means over all images: of the gradient, and of it times the normalised input
        inner = gradient - _column(shift, x) - centred * _column(slope * scale, x)
        result = inner * _column(scale if weight is None else scale * weight.to(x.dtype), x)
        return result.to(given.dtype), weight_gradient, bias_gradient, None, None


def _statistics(x: Tensor, world: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean ``(C,)``, biased variance ``(C,)`` and count (0-d) over all processes.

    From each one's own mean and variance, not from sums of squares, which would cancel.

    Reference: Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983.
    """
    others = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x, others, correction=0)
    own = torch.cat([mean, variance, mean.new_full((1,), x.numel() // x.shape[1])])
    parts = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(parts, own)
    stacked = torch.stack(parts)  # (ranks, 2 C + 1)
    means, variances = stacked[:, : len(mean)], stacked[:, len(mean) : -1]
    counts = stacked[:, -1:]
    count = counts.sum()
    centre = (means * counts).sum(0) / count
    spread = ((variances + (means - centre).square()) * counts).sum(0) / count
    return centre, spread, count


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Returns ``(C,)`` values in the place of the channels of ``(B, C, ...)``."""
    return values.view(1, -1, *[1] * (like.dim() - 2))
