"""BinaryKL and BinaryKL-Norm: one Bernoulli divergence a class (Dual-Head Knowledge Distillation)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import Reduction, check_logits, check_temperature, full_precision, reduce


@full_precision()
def binary_kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""Returns τ² times one Bernoulli divergence a class, summed over classes, averaged over the batch.

    .. math:: \tau^2 \sum_k \mathrm{KL}(\sigma(z_{t,k}/\tau) \| \sigma(z_{s,k}/\tau))

    Args:
        student_logits: what learns.
        teacher_logits: what is learned from; detached.
        temperature: τ, by which both sides' logits are divided.
        reduction: ``"mean"``, or ``"none"`` for one value a sample.

    Returns:
        0-d tensor, from 0 up (in nats times τ²); ``(B,)`` with ``reduction="none"``. Its gradient is
        τ(σ(z_s/τ) - σ(z_t/τ))/B.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, ``temperature <= 0``.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import binary_kl_loss
        >>> float(binary_kl_loss(torch.zeros(1, 3), torch.zeros(1, 3)))
        0.0

    Reference: Dual-Head Knowledge Distillation (DHKD), Eq. 1. Deviations: the mean over the batch is the
    released code's (the paper sums); both logarithms are log-sigmoids, so no gap is too large. The paper
    reports that training collapses when this loss, with a weight above 0.1, shares a head with
    cross-entropy; the combination is allowed all the same.
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    student, teacher = student_logits / temperature, teacher_logits / temperature
    positive = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    negative = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return reduce((positive + negative).sum(dim=1) * temperature**2, reduction)


@full_precision()
def binary_kl_norm_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""Returns :math:`\tau^2 \sum_k \log\cosh((z_{s,k} - z_{t,k})/2\tau)`, averaged over the batch.

    That is BinaryKL of the *difference* of logits against an even coin,
    :math:`\mathrm{KL}([½, ½] \| [\sigma(d), 1 - \sigma(d)])` with :math:`d = (z_s - z_t)/\tau`.

    Args:
        student_logits: what learns.
        teacher_logits: what is learned from; detached.
        temperature: τ, by which the difference is divided.
        reduction: ``"mean"``, or ``"none"`` for one value a sample.

    Returns:
        0-d tensor, from 0 up (in nats times τ²); ``(B,)`` with ``reduction="none"``. Near agreement each
        class gives (z_s - z_t)²/8 whatever τ; the gradient of one logit is at most τ/(2B).

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, ``temperature <= 0``.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import binary_kl_norm_loss
        >>> float(binary_kl_norm_loss(torch.full((1, 2), 500.0), torch.full((1, 2), 500.0)))
        0.0

    Reference: Dual-Head Knowledge Distillation (DHKD), Eq. 5. Deviations: the mean over the batch is the
    released code's (the paper sums), its clamp of the sigmoid to 1 - 1e-8 is not: in float32 that bound is 1,
    and a gap of 34 at τ = 2 gives an infinite loss with a NaN gradient.
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    half_gap = (student_logits - teacher_logits) / (2 * temperature)
    return reduce(_log_cosh(half_gap).sum(dim=1) * temperature**2, reduction)


def _log_cosh(x: Tensor) -> Tensor:
    """Returns log cosh x; of its two forms one loses all digits near 0, the other overflows far from it."""
    size = x.abs()
    near = size < 1
    inside = torch.where(near, x, 0.0)  # keeps sinh from overflowing where its result is not used
    close = (2 * (inside / 2).sinh().square()).log1p()
    far = size + (-2 * size).exp().log1p() - math.log(2)
    return torch.where(near, close, far)
