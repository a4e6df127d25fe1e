"""Hints: mean squared difference of two features (Romero et al., 2015)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_same_shape, full_precision, reduce


@full_precision()
def hint_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Returns the squared difference, averaged over all elements.

    Args:
        student_feature: what learns, already at the teacher's shape (regressor, connector).
        teacher_feature: what is learned from; detached.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: shapes differ, features are not floating.

    Shape:
        student_feature, teacher_feature: ``(B, ...)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import hint_loss
        >>> float(hint_loss(torch.zeros(2, 3), torch.full((2, 3), 2.0)))
        4.0

    Reference: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3. The paper has half the
    squared norm of the difference; the published weight of 100 belongs to the mean over elements. SimKD (Chen
    et al., CVPR 2022) is this loss on the last map.
    """
    check_same_shape(student_feature, teacher_feature)
    return reduce(F.mse_loss(student_feature, teacher_feature, reduction="none"), "mean")
