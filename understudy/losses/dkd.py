"""Decoupled knowledge distillation: KD's divergence split at the target class (Zhao et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import (
    Reduction,
    check_logits,
    check_target,
    check_temperature,
    full_precision,
    reduce,
)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Returns :math:`\alpha\,\mathrm{TCKD} + \beta\,\mathrm{NCKD}`, averaged over the batch.

    Args:
        student_logits: what learns.
        teacher_logits: what is learned from; detached.
        target: class numbers.
        alpha: weight of the target-class part (:func:`tckd_loss`).
        beta: weight of the non-target part (:func:`nckd_loss`); 2 to 8 on CIFAR-100, the larger the surer the
            teacher.
        temperature: T, by which both sides' logits are divided.
        reduction: ``"mean"``, or ``"none"`` for one value a sample.

    Returns:
        0-d tensor, from 0 up (in nats times T²); ``(B,)`` with ``reduction="none"``.

    Raises:
        ValueError: shapes differ or are not ``(B, C)`` with C >= 2, logits are not floating, ``temperature <=
            0``, target is not int64 of shape ``(B,)`` or (on CPU, in eager mode) outside ``[0, C)``.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; target: ``(B,)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import dkd_loss
        >>> logits, target = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
        >>> float(dkd_loss(logits, logits, target))
        0.0

    Reference: Zhao, Cui, Song, Qiu and Liang, Decoupled Knowledge Distillation, CVPR 2022, Eq. 7. Deviations:
    the released code takes the logarithm of a softmax (infinite beyond a gap of about 104 T in float32) and
    masks the target by subtracting 1000; here both parts are log-softmaxes and the target is left out
    exactly. The defaults are the paper's for resnet32x4 on CIFAR-100.
    """
    _check(student_logits, teacher_logits, target, temperature)
    return dkd(student_logits, teacher_logits, target, alpha, beta, temperature, reduction)


@full_precision()
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Returns :func:`dkd_loss` of arguments that were checked before."""
    at_target = tckd(student_logits, teacher_logits, target, temperature, "none")
    elsewhere = nckd(student_logits, teacher_logits, target, temperature, "none")
    return reduce(alpha * at_target + beta * elsewhere, reduction)


def tckd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Returns T² times the divergence of (target, all the rest) as two events, averaged over the batch.

    .. math:: T^2 [p_{t,y} \log(p_{t,y}/p_{s,y}) + p_{t,rest} \log(p_{t,rest}/p_{s,rest})]

    Args:
        student_logits: what learns.
        teacher_logits: what is learned from; detached.
        target: class numbers.
        temperature: T, by which both sides' logits are divided.
        reduction: ``"mean"``, or ``"none"`` for one value a sample.

    Returns:
        0-d tensor, from 0 up (in nats times T²); ``(B,)`` with ``reduction="none"``.

    Raises:
        ValueError: as :func:`dkd_loss`.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; target: ``(B,)``; output: ``()``.

    Reference: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, section 3.1 (the first term of Eq.
    5).
    """
    _check(student_logits, teacher_logits, target, temperature)
    return tckd(student_logits, teacher_logits, target, temperature, reduction)


@full_precision()
def tckd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Returns :func:`tckd_loss` of arguments that were checked before."""
    student = _target_and_rest(student_logits / temperature, target)
    teacher = _target_and_rest(teacher_logits / temperature, target)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return reduce(divergence * temperature**2, reduction)


def nckd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Returns T² times the divergence among the C - 1 non-target classes, averaged over the batch.

    .. math:: T^2 \sum_{k \ne y} q_{t,k} \log(q_{t,k}/q_{s,k}),
        \quad q = \mathrm{softmax}\text{ of the non-target logits}/T

    Args:
        student_logits: what learns.
        teacher_logits: what is learned from; detached.
        target: class numbers.
        temperature: T, by which both sides' logits are divided.
        reduction: ``"mean"``, or ``"none"`` for one value a sample.

    Returns:
        0-d tensor, from 0 up (in nats times T²); exactly 0, with zero gradient, for C = 2; ``(B,)`` with
        ``reduction="none"``.

    Raises:
        ValueError: as :func:`dkd_loss`.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; target: ``(B,)``; output: ``()``.

    Reference: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, section 3.1 (the second term of Eq.
    5, without its weight).
    """
    _check(student_logits, teacher_logits, target, temperature)
    return nckd(student_logits, teacher_logits, target, temperature, reduction)


@full_precision()
def nckd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Returns :func:`nckd_loss` of arguments that were checked before."""
    hot = _is_target(student_logits, target)
    log_s = _without_target(student_logits / temperature, hot)
    log_t = _without_target(teacher_logits / temperature, hot)
    # At the target both are 0 instead of -inf, so its term is 1 * (0 - 0), not 0 * (inf - inf).
    return reduce((log_t.exp() * (log_t - log_s)).sum(dim=1) * temperature**2, reduction)


def _check(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float) -> None:
    check_logits(student_logits, teacher_logits)
    batch, num_classes = student_logits.shape
    if num_classes < 2:
        raise ValueError(
            f"logits must have at least 2 classes, got {num_classes}. "
            "With one class there is nothing beside the target: use logit_mse_loss or binary_kl_loss"
        )
    check_target(target, batch, num_classes)
    check_temperature(temperature)


def _is_target(logits: Tensor, target: Tensor) -> Tensor:
    """Returns a bool mask ``(B, C)``, true at each row's target (``F.one_hot`` would read it on the host)."""
    return torch.arange(logits.shape[1], device=logits.device) == target[:, None]


def _target_and_rest(scaled: Tensor, target: Tensor) -> Tensor:
    """Returns ``(B, 2)``: log-probability of the target, and of all other classes together.

    The second is a logsumexp, never log(1 - p): that is -inf as soon as p rounds to 1.
    """
    log_p = F.log_softmax(scaled, dim=1)
    rest = log_p.masked_fill(_is_target(scaled, target), -torch.inf).logsumexp(dim=1)
    return torch.stack((log_p.gather(1, target[:, None]).squeeze(1), rest), dim=1)


def _without_target(scaled: Tensor, hot: Tensor) -> Tensor:
    """Returns log-probabilities ``(B, C)`` among the non-target classes, 0 at the target."""
    return F.log_softmax(scaled.masked_fill(hot, -torch.inf), dim=1).masked_fill(hot, 0.0)
