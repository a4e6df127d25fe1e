"""Which images to hold out or to keep: keyed choices that respect the classes.

Both choices are nested: under one seed, a smaller choice lies within a larger one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.data.counter import Stream, random_bits


def stratified(targets: Tensor, count: int, seed: int) -> Tensor:
    """Returns the positions of ``count`` images, every class in proportion to its size (Sainte-Laguë's rule).

    Args:
        targets: ``(N,)`` class numbers, on the CPU.
        count: from 0 to N.
        seed: of the choice.

    Returns:
        ``(count,)`` int64, ascending.
    """
    place, size = _place_in_class(targets, seed)
    return _first(count, (place + 0.5) / size)


def balanced(targets: Tensor, count: int, seed: int) -> Tensor:
    """Returns the positions of ``count`` images, as many of every class as there are, to within one.

    Args:
        targets: ``(N,)`` class numbers, on the CPU.
        count: from 0 to N.
        seed: of the choice.

    Returns:
        ``(count,)`` int64, ascending. A class too small for its share gives all it has, the others make up
        for it.
    """
    place, _ = _place_in_class(targets, seed)
    return _first(count, place.double())


def complement(positions: Tensor, n: int) -> Tensor:
    """Returns those of the numbers 0 to n - 1 that are not in ``positions``, ascending."""
    rest = torch.ones(n, dtype=torch.bool)
    rest[positions] = False
    return rest.nonzero()[:, 0]


def _place_in_class(targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Returns every image's place, from 0, in a random order of its class, and its class's size, ``(N,)``."""
    targets = targets - targets.min().clamp(max=0)  # images without a label are a class, too
    everyone = torch.arange(len(targets))
    shuffled = random_bits(seed, Stream.SPLIT, everyone).argsort(stable=True)
    order = shuffled[targets[shuffled].argsort(stable=True)]  # class after class, shuffled within
    sizes = targets.bincount()
    starts = sizes.cumsum(0) - sizes
    place = torch.empty_like(targets)
    place[order] = everyone - starts[targets[order]]
    return place, sizes[targets]


def _first(count: int, priority: Tensor) -> Tensor:
    return priority.argsort(stable=True)[:count].sort().values
