"""Counter-based random numbers: pure functions of a key, the same on every device and in any order.

There is no generator and so no state: what is drawn for one key never depends on what was drawn before it.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Returns ``value`` modulo 2^64 as the int64 of the same bits (torch has no uint64 arithmetic)."""
    return (value + 2**63) % 2**64 - 2**63


_GAMMA = _signed(0x9E3779B97F4A7C15)  # the odd integer next to 2^64 / golden ratio
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


class Stream(IntEnum):
    """What a random number is for; numbers of different streams are independent under one seed.

    The numbers are part of every saved run: never renumber, only append.
    """

    ORDER = 0
    """Order of the training images in an epoch."""
    VIEW = 1
    """Augmentation of an image in an epoch."""
    STEP = 2
    """Seed of torch's own generators at a step (dropout, CRD negatives)."""
    SPLIT = 3
    """Which images are held out or left out."""
    CORRUPTION = 4
    """Noise on an image that is spoiled on purpose."""
    LABEL_NOISE = 5
    """Which labels are made wrong on purpose, and what they become."""
    MIX = 6
    """How the images of a step are mixed."""
    BALANCE = 7
    """Which images of a class are shown once more in an epoch."""
    DETECTION = 8
    """Key of an image in a step, from which anchors and proposals are drawn."""
    ANCHORS = 9
    """Which anchors of an image are learned from."""
    PROPOSALS = 10
    """Which proposals of an image are learned from."""


def _shift(bits: Tensor, by: int) -> Tensor:
    kept = (1 << (64 - by)) - 1
    return (bits >> by) & kept  # >> on int64 copies the sign; the mask makes it a logical shift


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)


def random_bits(seed: int, stream: int, *counters: int | Tensor) -> Tensor:
    """Returns 64 random bits for every key ``(seed, stream, *counters)``.

    Every part of the key picks one output of a SplitMix64 generator, and that output seeds the next part's.
    All steps are bijections of 64 bits: two keys that differ in one part only never share their value.

    Args:
        seed: any integer, taken modulo 2^64.
        stream: see :class:`Stream`.
        counters: integers (modulo 2^64) or int64 tensors that broadcast.

    Returns:
        int64 tensor of the counters' common shape and device, uniform over all 2^64 patterns.

    Raises:
        ValueError: a counter is a tensor of another type.

    Example:
        >>> import torch
        >>> from understudy.data.counter import random_bits
        >>> hex(int(random_bits(0, 0)) % 2**64)  # SplitMix64's first output for seed 0
        '0xe220a8397b1dcdaf'
        >>> random_bits(1, 0, 7, torch.arange(3)).shape
        torch.Size([3])

    Reference: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, with
    Stafford's Mix13 finaliser as in Vigna's public-domain splitmix64. Chaining the parts of a key is ours.
    """
    bits = _mix(torch.tensor(_signed(seed), device="cpu"))
    for counter in (int(stream), *counters):
        if isinstance(counter, Tensor):
            if counter.dtype != torch.int64:
                raise ValueError(f"a counter must be int64, got {counter.dtype}. Convert it with .long()")
            bits = _mix(bits + (counter + 1) * _GAMMA)  # int64 wraps, as SplitMix64 asks
        else:
            bits = _mix(bits + _signed((counter + 1) * _GAMMA))
    return bits


def uniform(seed: int, stream: int, *counters: int | Tensor) -> Tensor:
    """Returns float64 numbers in [0, 1): the upper 53 of :func:`random_bits`, so the same on every device."""
    return _shift(random_bits(seed, stream, *counters), 11).double() * 2.0**-53


def integers(below: int, seed: int, stream: int, *counters: int | Tensor) -> Tensor:
    """Returns int64 numbers in ``[0, below)``.

    Args:
        below: from 1 to 2^31.
        seed: as in :func:`random_bits`.
        stream: as in :func:`random_bits`.
        counters: as in :func:`random_bits`.

    Raises:
        ValueError: ``below`` is out of range.

    Reference: Lemire, Fast Random Integer Generation in an Interval, 2019, without the rejection step, which
    would need a loop: probabilities differ from ``1 / below`` by a factor of at most ``1 ± below / 2^32``.
    """
    if not 1 <= below <= 2**31:
        raise ValueError(f"below must be from 1 to 2^31, got {below}. Draw from fewer numbers")
    return (_shift(random_bits(seed, stream, *counters), 32) * below) >> 32


def permutation(seed: int, epoch: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns the order ``(n,)`` in which an epoch visits ``n`` images: each of 0 to n - 1 once, int64."""
    return random_bits(seed, Stream.ORDER, epoch, torch.arange(n, device=device)).argsort(stable=True)


def step_seed(seed: int, step: int, *counters: int) -> int:
    """Returns a seed in [0, 2^63) for torch's own generators at ``step``; ``counters`` may add the rank."""
    return int(random_bits(seed, Stream.STEP, step, *counters)) % 2**63
