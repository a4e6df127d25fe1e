"""Neuron selectivity transfer: match the distribution of channel patterns (Huang and Wang, 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.losses.contract import check_lists, full_precision, reduce
from understudy.losses.numerics import unit
from understudy.losses.shapes import check_same_batch, pool_larger


@full_precision()
def nst_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    r"""Returns the squared maximum mean discrepancy of channels under the kernel ⟨a, b⟩², summed over stages.

    Every channel is a unit vector over space; :math:`k(t,t) + k(s,s) - 2k(s,t)` with k the mean over the
    batch and all pairs of channels.

    Args:
        student_features: maps that learn, shallow to deep.
        teacher_features: their counterparts; detached. Channels and sizes may differ: the larger map is
            pooled.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: lists differ in length or are empty, a feature is not a floating ``(B, C, H, W)``.

    Shape:
        pair k: ``(B, C_s, H_s, W_s)`` and ``(B, C_t, H_t, W_t)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import nst_loss
        >>> maps = torch.arange(1.0, 9.0).view(1, 2, 2, 2)
        >>> round(float(nst_loss([maps.flip(1)], [maps])), 6)  # the order of channels does not matter
        0.0

    Reference: Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017:
    the squared polynomial kernel. All pairs of channels are never formed in one tensor (the authors' code
    does): see :func:`_discrepancy`.
    """
    check_lists(student_features, teacher_features)
    losses: list[Tensor] = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        check_same_batch(student, teacher, rank=4)
        student, teacher = pool_larger(student, teacher)
        losses.append(reduce(_discrepancy(unit(student.flatten(2)), unit(teacher.flatten(2))), "mean"))
    return torch.stack(losses).sum()


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns ``(B,)`` discrepancies of unit channels ``(B, C, N)``, by the cheaper of two equal forms.

    The sum over channel pairs of ⟨a, b⟩² is the Frobenius product of AᵀA and BᵀB, ``(N, N)`` matrices over
    space. So the whole is ‖SᵀS/C_s - TᵀT/C_t‖², which also cancels nothing. Large maps are cheaper through
    ``(C, C)`` matrices.
    """
    (c_s, space), c_t = student.shape[1:], teacher.shape[1]
    if space * (c_s + c_t) <= c_s**2 + c_t**2 + c_s * c_t:
        difference = student.mT @ student / c_s - teacher.mT @ teacher / c_t  # (B, N, N)
        return difference.square().sum(dim=(1, 2))
    pairs = ((teacher, teacher), (student, student), (student, teacher))
    tt, ss, st = ((a @ b.mT).square().mean(dim=(1, 2)) for a, b in pairs)
    return tt + ss - 2 * st
