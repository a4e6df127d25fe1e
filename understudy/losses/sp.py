"""Similarity-preserving distillation: which samples of the batch activate alike (Tung and Mori, 2019)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import full_precision, reduce
from understudy.losses.numerics import unit
from understudy.losses.shapes import check_same_batch


@full_precision()
def sp_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Returns the mean over all B² pairs of the squared difference of row-normalised Gram matrices.

    Args:
        student_feature: what learns.
        teacher_feature: what is learned from; detached. Channels and size may differ.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: features are not floating ``(B, ...)`` with one B.

    Shape:
        student_feature, teacher_feature: ``(B, ...)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import sp_loss
        >>> float(sp_loss(torch.eye(3), 2 * torch.eye(3, 5)))
        0.0

    Reference: Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019. The Gram
    matrix is an ordinary matrix product and follows the process-wide TF32 setting.
    """
    check_same_batch(student_feature, teacher_feature)
    return reduce(F.mse_loss(_gram(student_feature), _gram(teacher_feature), reduction="none"), "mean")


def _gram(feature: Tensor) -> Tensor:
    flat = feature.flatten(1)
    return unit(flat @ flat.T)  # (B, B)
