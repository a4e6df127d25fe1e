"""Knowledge distillation: tempered KL divergence between softmaxes (Hinton et al., 2015)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import Reduction, check_logits, check_temperature, full_precision, reduce


@full_precision()
def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""Returns :math:`T^2 \mathrm{KL}(p_t(T) \| p_s(T))`, summed over classes, averaged over the batch.

    Args:
        student_logits: what learns.
        teacher_logits: what is learned from; detached.
        temperature: T, by which both sides' logits are divided.
        reduction: ``"mean"``, or ``"none"`` for one value a sample.

    Returns:
        0-d tensor, from 0 up (in nats times T²); ``(B,)`` with ``reduction="none"``.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, ``temperature <= 0``.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import kd_loss
        >>> float(kd_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])))
        0.0

    Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    log_s = F.log_softmax(student_logits / temperature, dim=1)  # (B, C)
    log_t = F.log_softmax(teacher_logits / temperature, dim=1)
    return reduce((log_t.exp() * (log_t - log_s)).sum(dim=1) * temperature**2, reduction)
