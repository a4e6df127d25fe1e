"""Hierarchical context loss of ReviewKD: maps compared at several sizes (Chen et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_lists, check_same_shape, full_precision, reduce
from understudy.losses.shapes import pool_to

SIZES = (4, 2, 1)
"""Sizes in pixels that the maps are pooled to, besides their own."""


@full_precision()
def hcl_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Returns, summed over levels, the mean squared differences at full size and pooled to 4, 2 and 1 pixels.

    The full size weighs 1, every used smaller size half of the one before, and the sum is divided by the
    weights'. A size is used if it is smaller than the map's height.

    Args:
        student_features: outputs of the fusion blocks.
        teacher_features: maps of the same shapes; detached. A vector enters as a 1×1 map.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: lists differ in length or are empty, a level is not a floating ``(B, C, H, W)`` of one
            shape.

    Shape:
        level k of both: ``(B, C_k, H_k, W_k)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import hcl_loss
        >>> float(hcl_loss([torch.zeros(1, 2, 8, 8)], [torch.full((1, 2, 8, 8), 3.0)]))
        9.0

    Reference: Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021: hierarchical context loss,
    with the weights of the authors' code.
    """
    check_lists(student_features, teacher_features)
    losses: list[Tensor] = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        check_same_shape(student, teacher, rank=4)
        weight, weights = 1.0, 1.0
        loss = reduce(F.mse_loss(student, teacher, reduction="none"), "mean")
        for size in SIZES:
            if size < student.shape[2]:
                weight /= 2
                weights += weight
                # Pooling is linear: one pooling of the difference instead of one of each map.
                loss = loss + weight * reduce(pool_to(student - teacher, size, size).square(), "mean")
        losses.append(loss / weights)
    return torch.stack(losses).sum()
