"""Gradients averaged over the processes, in one message."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn
from torch import distributed as dist

from understudy.engine.distributed import Ranks

Gradients = list[Tensor | None]


class GradientMean:
    """Averages lists of gradients of the same parameters over the processes, all lists in one message a dtype.

    A parameter that no loss reaches has no gradient, and must have none on any process: the alignment tells the
    backbone from the heads by it, and an optimiser leaves such a parameter alone. Which ones are reached is agreed on
    once for every set of terms, since a set of terms decides it; a process that does not reach one of them in a step
    (a network that skips layers at random) counts as zero.

    Args:
        parameters: by name.
        ranks: the processes.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: Ranks) -> None:
        self._names, self._parameters = list(parameters), list(parameters.values())
        self._ranks = ranks
        self._reached: dict[Hashable, list[bool]] = {}

    def __call__(self, *lists: Gradients, terms: Hashable) -> tuple[Gradients, ...]:
        """Returns the averages; a process on its own gets its lists back.

        Args:
            lists: one entry a parameter, ``None`` where it is not reached.
            terms: what decides which parameters are reached; equal on all processes.

        Raises:
            ValueError: a parameter is reached that no process reached when these terms were first seen.
        """
        if not self._ranks.several:
            return lists
        flat = [gradient for gradients in lists for gradient in gradients]
        like = self._parameters * len(lists)
        reached = self._agreed(flat, terms)
        averaged: Gradients = [None] * len(flat)
        for dtype in {p.dtype: None for p in like}:  # as an ordered set
            places = [i for i, p in enumerate(like) if reached[i] and p.dtype == dtype]
            if places:
                means = self._mean([flat[i] for i in places], [like[i] for i in places])
                for i, mean in zip(places, means, strict=True):
                    averaged[i] = mean
        each = len(self._parameters)
        return tuple(averaged[i : i + each] for i in range(0, len(flat), each))

    def _mean(self, gradients: Gradients, like: list[nn.Parameter]) -> list[Tensor]:
        pairs = zip(gradients, like, strict=True)
        message = torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs])
        dist.all_reduce(message)
        message /= self._ranks.world
        parts = message.split([p.numel() for p in like])
        # of the parameters' own memory layout, as fused optimisers ask
        means = [torch.empty_like(p, requires_grad=False) for p in like]
        torch._foreach_copy_(means, [part.view(p.shape) for part, p in zip(parts, like, strict=True)])  # pyright: ignore[reportPrivateImportUsage]
        return means

    def _agreed(self, gradients: Gradients, terms: Hashable) -> list[bool]:
        own = [gradient is not None for gradient in gradients]
        if terms not in self._reached:
            anywhere = torch.tensor(own, dtype=torch.int32, device=self._parameters[0].device)
            dist.all_reduce(anywhere, dist.ReduceOp.MAX)
            self._reached[terms] = anywhere.bool().tolist()
        for i, (here, known) in enumerate(zip(own, self._reached[terms], strict=True)):
            if here and not known:
                raise ValueError(
                    "the same terms must reach the same parameters in every step on several processes, got a gradient "
                    f"for {self._names[i % len(self._names)]}, which none had before. Train in one process"
                )
        return self._reached[terms]
