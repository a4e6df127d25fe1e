"""Attention transfer: where a map is strong (Zagoruyko and Komodakis, 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_lists, full_precision, reduce
from understudy.losses.numerics import unit
from understudy.losses.shapes import check_same_batch, pool_larger


@full_precision()
def at_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], p: float = 2) -> Tensor:
    """Returns the mean squared difference of attention maps, summed over the pairs of stages.

    Args:
        student_features: maps that learn, shallow to deep.
        teacher_features: their counterparts; detached. Channels and sizes may differ: the larger map is
            pooled.
        p: power of the absolute activations, 1 or more.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: lists differ in length or are empty, a feature is not a floating ``(B, C, H, W)``,
            ``p < 1``.

    Shape:
        pair k: ``(B, C_s, H_s, W_s)`` and ``(B, C_t, H_t, W_t)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import at_loss
        >>> maps = [torch.arange(1.0, 9.0).view(1, 2, 2, 2)]
        >>> float(at_loss(maps, [3 * maps[0]]))  # strength does not matter, place does
        0.0

    Reference: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, eq. 2. As in the
    authors' code: the mean over channels (the paper's sum; equal once normalised) and the mean over B, H and
    W of the squared difference (the paper: its norm), for which the weight 1000 was published. The absolute
    value is the paper's; the code omits it, which matters for odd ``p`` only.
    """
    check_lists(student_features, teacher_features)
    if not 1 <= p < math.inf:
        raise ValueError(f"p must be 1 or more and finite, got {p}. The published value is 2")
    losses: list[Tensor] = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        check_same_batch(student, teacher, rank=4)
        student, teacher = pool_larger(student, teacher)
        losses.append(
            reduce(F.mse_loss(attention(student, p), attention(teacher, p), reduction="none"), "mean")
        )
    return torch.stack(losses).sum()


def attention(feature: Tensor, p: float) -> Tensor:
    """Returns unit vectors ``(B, H·W)`` of maps ``(B, C, H, W)``: the mean of ``|feature|^p``."""
    power = feature.square() if p == 2 else feature.abs().pow(p)
    return unit(power.mean(dim=1).flatten(1))
