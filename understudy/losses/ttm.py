"""TTM and WTTM: temper the teacher alone (Zheng and Yang, ICLR 2024)."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import Reduction, check_logits, full_precision, reduce


@full_precision()
def ttm_loss(
    student_logits: Tensor, teacher_logits: Tensor, gamma: float = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    r"""Returns the divergence from the tempered teacher to the plain student, averaged over the batch.

    .. math:: \mathrm{KL}(r \| \mathrm{softmax}(z_s)), \quad r = \mathrm{softmax}(\gamma z_t)

    Args:
        student_logits: what learns; not tempered.
        teacher_logits: what is learned from; detached.
        gamma: γ, the power of the teacher's probabilities; 1/T of ordinary distillation.
        reduction: ``"mean"``, or ``"none"`` for one value a sample.

    Returns:
        0-d tensor in nats, from 0 up (without T²); ``(B,)`` with ``reduction="none"``.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, ``gamma <= 0``.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import ttm_loss
        >>> float(ttm_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[10.0, 0.0]])))
        0.0

    Reference: Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, the
    TTM objective. Deviation: the released code raises a softmax to the power γ and normalises, which
    underflows; the values agree otherwise.
    """
    check_logits(student_logits, teacher_logits)
    _check_gamma(gamma)
    return reduce(_divergence(student_logits, teacher_logits, gamma), reduction)


@full_precision()
def wttm_loss(
    student_logits: Tensor, teacher_logits: Tensor, gamma: float = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    r"""Returns :func:`ttm_loss` with sample i weighted by :math:`\sum_k p_{t,ik}^\gamma`.

    For γ < 1 the weight grows with the teacher's doubt, from 1 (one class certain) to C^(1-γ) (all equal).

    Args:
        student_logits: what learns; not tempered.
        teacher_logits: what is learned from; detached.
        gamma: γ, the power of the teacher's probabilities.
        reduction: ``"mean"`` (a plain one, not divided by the sum of weights), or ``"none"`` for one value a
            sample.

    Returns:
        0-d tensor in nats, from 0 up; ``(B,)`` with ``reduction="none"``.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, ``gamma <= 0``.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``()``.

    Reference: Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, the
    WTTM objective. The same deviation as :func:`ttm_loss`.
    """
    check_logits(student_logits, teacher_logits)
    _check_gamma(gamma)
    weight = (gamma * F.log_softmax(teacher_logits, dim=1)).logsumexp(dim=1).exp()  # (B,)
    return reduce(weight * _divergence(student_logits, teacher_logits, gamma), reduction)


def _divergence(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """Returns KL(p_t^γ normalised, p_s) for each sample, ``(B,)``."""
    log_s = F.log_softmax(student_logits, dim=1)
    log_t = F.log_softmax(gamma * teacher_logits, dim=1)
    return (log_t.exp() * (log_t - log_s)).sum(dim=1)


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma < math.inf:
        raise ValueError(f"gamma must be above 0 and finite, got {gamma}. Typical values are 0.05 to 1")
