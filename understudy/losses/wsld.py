"""WSLD: weigh soft labels by how far the student lags behind (Zhou et al., ICLR 2021)."""

from __future__ import annotations

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

_EPS = 1e-7  # keeps the ratio of cross-entropies finite for a teacher that is certain


def wsld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 2.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Returns T² times the soft cross-entropy, each sample weighted by its lag, averaged over the batch.

    .. math:: T^2 w_i \left(-\sum_k p_{t,k}(T) \log p_{s,k}(T)\right),
        \quad w_i = 1 - \exp(-\mathrm{CE}_{s,i} / (\mathrm{CE}_{t,i} + 10^{-7}))

    Args:
        student_logits: what learns.
        teacher_logits: what is learned from; detached.
        target: class numbers, for both (untempered, detached) cross-entropies in w.
        temperature: T, by which both sides' logits are divided.
        reduction: ``"mean"``, or ``"none"`` for one value a sample.

    Returns:
        0-d tensor, from 0 up (in nats times T²); ``(B,)`` with ``reduction="none"``. It is a cross-entropy,
        not a divergence: equal networks give T² times the weighted entropy.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, ``temperature <= 0``, target
            is not int64 of shape ``(B,)`` or (on CPU, in eager mode) outside ``[0, C)``.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; target: ``(B,)``; output: ``()``.

    Reference: Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, Rethinking Soft Labels for Knowledge
    Distillation: A Bias-Variance Tradeoff Perspective, ICLR 2021. Deviations: any number of classes (the
    released code says 1000) and no gradient to the teacher.
    """
    check_logits(student_logits, teacher_logits)
    check_target(target, *student_logits.shape)
    check_temperature(temperature)
    return wsld(student_logits, teacher_logits, target, temperature, reduction)


@full_precision()
def wsld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 2.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Returns :func:`wsld_loss` of arguments that were checked before."""
    student_ce = F.cross_entropy(student_logits.detach(), target, reduction="none")  # (B,)
    teacher_ce = F.cross_entropy(teacher_logits, target, reduction="none")
    weight = -(-student_ce / (teacher_ce + _EPS)).expm1()
    log_s = F.log_softmax(student_logits / temperature, dim=1)
    soft = (teacher_logits / temperature).softmax(dim=1)
    return reduce(-weight * (soft * log_s).sum(dim=1) * temperature**2, reduction)
