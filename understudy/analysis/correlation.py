"""Two pictures of how a student's logits differ from its teacher's, class against class."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.analysis.precision import float64, result_dtype
from understudy.losses.contract import check_logits
from understudy.metrics.contract import check_labelled, check_not_empty


def correlation_difference(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Returns the distance between the two networks' correlations of every pair of classes.

    Args:
        student_logits: the student's logits on the whole test set, or those of one of its heads.
        teacher_logits: the teacher's.

    Returns:
        |R_s - R_t| with R the Pearson correlation of logit columns over the samples, from 0 to 2. A constant
        column correlates 0 with everything, itself included.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, there is no sample.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``(C, C)``.

    Reference: what the captions of DKD (Zhao et al., CVPR 2022) and DHKD say of their matrices; the code
        released with them draws :func:`class_logit_difference`.
    """
    check_logits(student_logits, teacher_logits)
    check_not_empty(student_logits, "student_logits")
    gap = _correlation(float64(student_logits)) - _correlation(float64(teacher_logits))
    return gap.abs().to(result_dtype(student_logits, teacher_logits))


def class_logit_difference(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """Returns, by true class, how far the student's mean logits are from the teacher's.

    This is no correlation, whatever the figures made from it are called.

    Args:
        student_logits: the student's logits on the whole test set, or those of one of its heads.
        teacher_logits: the teacher's.
        target: class numbers.

    Returns:
        Row l: |mean of z_s - z_t over the samples of class l|; the diagonal is set to 0, as in the
        published pictures. The row of a class without samples is 0.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, ``target`` is wrong, there
            is no sample.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; target: ``(B,)``; output: ``(C, C)``.

    Reference: the notebook released with DKD (Zhao et al., CVPR 2022), which divides by 3 and colours 0 to 1;
        that belongs to the picture and is not done here.
    """
    check_logits(student_logits, teacher_logits)
    check_labelled(student_logits, target, "student_logits")
    check_not_empty(student_logits, "student_logits")
    gap = float64(student_logits) - float64(teacher_logits)  # (B, C)
    num_classes = gap.shape[1]
    total = gap.new_zeros(num_classes, num_classes).index_add_(0, target, gap)
    count = gap.new_zeros(num_classes).index_add_(0, target, torch.ones_like(gap[:, 0]))
    means = (total / count.clamp(min=1)[:, None]).abs()
    return means.fill_diagonal_(0).to(result_dtype(student_logits, teacher_logits))


def _correlation(logits: Tensor) -> Tensor:
    """Returns the Pearson correlation of the columns ``(C, C)``."""
    centred = logits - logits.mean(dim=0)
    # compared, not measured: the mean of equal numbers may differ from them in the last bit
    constant = logits.amax(dim=0) == logits.amin(dim=0)
    unit = torch.where(constant, 0, centred / centred.norm(dim=0))
    return unit.T @ unit
