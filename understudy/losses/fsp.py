"""Flow of solution procedure: how one stage's channels go with the next one's (Yim et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_lists, full_precision, reduce
from understudy.losses.shapes import check_same_batch, pool_larger


@full_precision()
def fsp_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Returns the mean squared difference of flow matrices, summed over consecutive pairs of taps.

    The flow matrix of two taps holds, for every channel of the one and of the other, the mean over space of
    their product; the larger map is pooled first.

    Args:
        student_features: maps that learn, shallow to deep, two or more.
        teacher_features: their counterparts with the same channels; detached. Sizes may differ.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: lists differ in length or are shorter than 2, a feature is not a floating
            ``(B, C, H, W)``, channels differ.

    Shape:
        tap k: ``(B, C_k, H_s, W_s)`` and ``(B, C_k, H_t, W_t)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import fsp_loss
        >>> low, high = torch.ones(1, 2, 4, 4), torch.ones(1, 3, 2, 2)
        >>> float(fsp_loss([low, high], [2 * low, high]))
        1.0

    Reference: Yim et al., A Gift from Knowledge Distillation, CVPR 2017. The mean over elements, to
    which the weight 50 belongs, is that of the code the quoted tables were made with.
    """
    check_lists(student_features, teacher_features)
    if len(student_features) < 2:
        raise ValueError("fsp must have at least 2 taps, got 1. Add the stem or another stage")
    for student, teacher in zip(student_features, teacher_features, strict=True):
        check_same_batch(student, teacher, rank=4)
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(
                f"fsp must have equal channels, got student {tuple(student.shape)} and teacher "
                f"{tuple(teacher.shape)}. Choose a teacher of the same width, or another method"
            )
    losses = [
        reduce(F.mse_loss(_flow(*student), _flow(*teacher), reduction="none"), "mean")
        for student, teacher in zip(pairwise(student_features), pairwise(teacher_features), strict=True)
    ]
    return torch.stack(losses).sum()


def _flow(bottom: Tensor, top: Tensor) -> Tensor:
    """Returns ``(B, C_top, C_bottom)``."""
    bottom, top = pool_larger(bottom, top)
    return top.flatten(2) @ bottom.flatten(2).mT / (top.shape[2] * top.shape[3])
