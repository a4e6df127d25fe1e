"""Mean squared difference of logits (Ba and Caruana, 2014; SRRL and IJCKD use it)."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.contract import Reduction, check_logits, full_precision, reduce


@full_precision()
def logit_mse_loss(student_logits: Tensor, teacher_logits: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Returns the squared difference of logits, averaged over classes and batch.

    Args:
        student_logits: what learns.
        teacher_logits: what is learned from; detached.
        reduction: ``"mean"``, or ``"none"`` for one value a sample (the mean over its classes).

    Returns:
        0-d tensor, from 0 up; ``(B,)`` with ``reduction="none"``.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import logit_mse_loss
        >>> float(logit_mse_loss(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]])))
        2.0

    Reference: Ba and Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014. The mean over classes is what
    SRRL's code and IJCKD's algorithm compute, and what IJCKD's weight 1 assumes; IJCKD's text writes a sum.
    """
    check_logits(student_logits, teacher_logits)
    return reduce((student_logits - teacher_logits).square().mean(dim=1), reduction)
