"""Softmax regression representation learning: the teacher's classifier judges (Yang et al., 2021)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_floating, check_logits, check_same_shape, full_precision, reduce


@full_precision()
def srrl_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    feature_weight: float = 1.0,
    logit_weight: float = 1.0,
) -> Tensor:
    """Returns the mean squared difference of pooled features and of logits, each over all its elements.

    Args:
        student_feature: the connector's map (pooled here) or a vector.
        teacher_feature: the teacher's last map or pooled vector; detached.
        student_logits: the *teacher's* classifier on the student's pooled vector.
        teacher_logits: the teacher's own; detached.
        feature_weight: factor of the first part.
        logit_weight: factor of the second.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: pooled features or logits differ in shape, a feature is neither a map nor a vector,
            something is not floating.

    Shape:
        student_feature, teacher_feature: ``(B, D, H, W)`` or ``(B, D)``; student_logits,
        teacher_logits: ``(B, C)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import srrl_loss
        >>> float(srrl_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3), torch.ones(2, 5), torch.zeros(2, 5)))
        2.0

    Reference: Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, ICLR 2021,
    with the authors' code: the difference is of *pooled* vectors, not of whole maps.
    """
    check_floating(student_feature=student_feature, teacher_feature=teacher_feature)
    student, teacher = _pooled(student_feature), _pooled(teacher_feature)
    check_same_shape(student, teacher, rank=2)
    check_logits(student_logits, teacher_logits)
    feature = reduce(F.mse_loss(student, teacher, reduction="none"), "mean")
    logit = reduce(F.mse_loss(student_logits, teacher_logits, reduction="none"), "mean")
    return feature_weight * feature + logit_weight * logit


def _pooled(feature: Tensor) -> Tensor:
    return feature.mean(dim=(2, 3)) if feature.dim() == 4 else feature
