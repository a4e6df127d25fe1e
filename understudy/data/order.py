"""Which image each place of an epoch shows: all of them once, or rare classes more often."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.data.counter import Stream, permutation, random_bits


def epoch_order(targets: Tensor, balance: float, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Returns the positions in the set that an epoch shows, one after the other, and how often each was shown before.

    An epoch has as many places as the set has images. Class c with :math:`n_c` images gets a share of them in
    proportion to :math:`n_c^{1-balance}`, to within one image: 0 shows every image once, 1 every class equally often.
    Within a class every image is shown equally often, to within one; who is shown once more is drawn anew in every
    epoch.

    Args:
        targets: ``(N,)`` class numbers, from 0, on the CPU.
        balance: from 0 to 1.
        seed: the data seed.
        epoch: from 0.

    Returns:
        positions and repetitions (0 for the first showing), ``(N,)`` int64.
    """
    n = len(targets)
    order = permutation(seed, epoch, n)
    if balance == 0:
        return order, torch.zeros_like(order)
    sizes = targets.bincount()
    wanted = class_counts(sizes, balance)[targets]
    size, everyone = sizes[targets], torch.arange(n)
    shuffled = random_bits(seed, Stream.BALANCE, epoch, everyone).argsort(stable=True)
    by_class = shuffled[targets[shuffled].argsort(stable=True)]
    place = torch.empty_like(targets)  # in a random order of its class
    place[by_class] = everyone - (sizes.cumsum(0) - sizes)[targets[by_class]]
    times = wanted // size + (place < wanted % size)
    rows = everyone.repeat_interleave(times)
    repetition = everyone - (times.cumsum(0) - times)[rows]
    return rows[order], repetition[order]


def class_counts(sizes: Tensor, balance: float) -> Tensor:
    """Returns how often each class is shown in an epoch, ``(C,)`` int64; as many in all as there are images.

    Args:
        sizes: images of each class, ``(C,)`` int64.
        balance: from 0 to 1.
    """
    parts = torch.where(sizes > 0, sizes.double() ** (1 - balance), 0.0)
    exact = parts * (int(sizes.sum()) / parts.sum())
    counts = exact.floor().long()
    missing = int(sizes.sum()) - int(counts.sum())
    counts[(exact - counts).argsort(descending=True, stable=True)[:missing]] += 1
    return counts
