"""Measuring a classifier on a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.engine.distributed import Ranks
from understudy.interface import Batch


@dataclass(frozen=True, slots=True)
class Answers:
    """A classifier's logits on a whole set, in the set's order."""

    logits: Tensor
    """``(N, C)`` float32; or the objects found, ``(N, D, 6)``."""
    target: Tensor
    """``(N,)`` int64; ``(N, C)`` where an image may have several classes; or rows of objects, ``(N, M, 8)``."""


@torch.no_grad()
def answers(predict: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> Answers:
    """Returns the logits of every image; ``predict`` must be in eval mode.

    With :class:`Shard` for batches it is collective, and every process gets the answers to the whole set.
    """
    pairs = [(predict(batch.images).float(), batch.target) for batch in batches]
    if isinstance(batches, Shard):
        return batches.gathered(pairs)
    return Answers(torch.cat([logits for logits, _ in pairs]), torch.cat([target for _, target in pairs]))


@dataclass(frozen=True, slots=True)
class Shard:
    """This process's batches of a set that is divided among the processes, in the order of the ranks.

    The parts may differ in length, and be empty.
    """

    batches: Iterable[Batch]
    ranks: Ranks
    device: torch.device

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def gathered(self, pairs: list[tuple[Tensor, Tensor]]) -> Answers:
        """Returns the answers to the whole set, from each process's logits and targets."""
        shapes = [(x.shape[1:], y.shape[1:], y.dtype) for x, y in pairs[:1]]
        sizes = self.ranks.exchange((sum(len(target) for _, target in pairs), *shapes))
        counts = tuple(size[0] for size in sizes)
        one, other, kind = next(size[1] for size in sizes if len(size) > 1)
        nothing = (
            torch.zeros(0, *one, device=self.device),
            torch.zeros(0, *other, dtype=kind, device=self.device),
        )
        logits, target = (torch.cat(column) for column in zip(nothing, *pairs, strict=True))
        return Answers(self.ranks.gather(logits, counts), self.ranks.gather(target, counts))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode, and back into its former one."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
