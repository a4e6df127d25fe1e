"""Logit standardisation: logits without their mean and scale, for any logit loss (Sun et al., CVPR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.losses.contract import check_floating, full_precision


@full_precision()
def standardise_logits(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """Returns the z-score of every row, so that a student need not match the teacher's scale of logits.

    Give both sides to it and the results to a logit loss; the temperature then is in units of the row's
    standard deviation.

    Args:
        logits: of student or teacher; the gradient passes.
        eps: added to the standard deviation.

    Returns:
        Logits of mean 0 and standard deviation 1 in each row, at least float32. A row whose deviation is at
        most eps (a constant one is all 0) passes no gradient.

    Raises:
        ValueError: logits are not ``(B, C)`` or not floating.

    Shape:
        logits: ``(B, C)``; output: the same.

    Example:
        >>> import torch
        >>> from understudy.losses import kd_loss, standardise_logits
        >>> student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[20.0, 10.0, 0.0]])
        >>> float(kd_loss(standardise_logits(student), standardise_logits(teacher))) < 1e-6
        True

    Reference: Sun, Ren, Li, Wang and Cao, Logit Standardization in Knowledge Distillation, CVPR 2024. The
    deviation has C - 1 in its denominator, as in the released code. Deviation: rows without spread, where
    that code has a gradient of 1/eps.
    """
    if logits.dim() != 2:
        raise ValueError(
            f"logits must have shape (B, C), got {tuple(logits.shape)}. Flatten the pixels first"
        )
    check_floating(logits=logits)
    shifted = logits - logits[:, :1].detach()  # constant rows become exactly 0, whatever the mean rounds to
    centred = shifted - shifted.mean(dim=1, keepdim=True)
    spread = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / max(logits.shape[1] - 1, 1) ** 0.5
    scores = centred / (spread + eps)
    return torch.where(spread <= eps, scores.detach(), scores)
