"""Measuring a classifier on a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.interface import Batch


@dataclass(frozen=True, slots=True)
class Answers:
    """A classifier's logits on a whole set, in the set's order."""

    logits: Tensor
    """``(N, C)`` float32."""
    target: Tensor
    """``(N,)`` int64."""


@torch.no_grad()
def answers(predict: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> Answers:
    """Returns the logits of every image; ``predict`` must be in eval mode."""
    pairs = [(predict(batch.images).float(), batch.target) for batch in batches]
    return Answers(torch.cat([logits for logits, _ in pairs]), torch.cat([target for _, target in pairs]))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode, and back into its former one."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
