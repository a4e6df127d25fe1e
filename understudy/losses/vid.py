"""Variational information distillation: a Gaussian likelihood of the teacher's map (Ahn et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_floating, check_same_shape, full_precision


@full_precision()
def vid_loss(predicted_mean: Tensor, log_scale: Tensor, teacher_feature: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Returns :math:`\tfrac12 [(\mu - t)^2 / \sigma_c^2 + \log \sigma_c^2]`, averaged over all elements.

    The variance of channel c is ``softplus(log_scale[c]) + eps``. Half the log of 2π is left out, so the loss
    may be negative.

    Args:
        predicted_mean: the regressor's guess of the teacher's map.
        log_scale: one trained number a channel (no logarithm, despite the published name).
        teacher_feature: the teacher's map; detached.
        eps: smallest variance.

    Returns:
        0-d tensor, in nats an element.

    Raises:
        ValueError: shapes differ, ``log_scale`` is not ``(C,)``, something is not floating.

    Shape:
        predicted_mean, teacher_feature: ``(B, C, ...)``; log_scale: ``(C,)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import vid_loss
        >>> one = torch.tensor([0.541324855])  # softplus of it is 1
        >>> round(float(vid_loss(torch.zeros(2, 1, 2, 2), one, torch.ones(2, 1, 2, 2), eps=0.0)), 4)
        0.5

    Reference: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019: the
    Gaussian likelihood with one variance a channel.
    """
    check_same_shape(predicted_mean, teacher_feature)
    if predicted_mean.dim() < 2 or log_scale.shape != predicted_mean.shape[1:2]:
        raise ValueError(
            f"log_scale must have shape (C,) for features (B, C, ...), got log_scale {tuple(log_scale.shape)} "
            f"and features {tuple(predicted_mean.shape)}. Give one scale a channel"
        )
    check_floating(log_scale=log_scale)
    variance = eps - F.logsigmoid(-log_scale)  # softplus, exact above 20 as well; (C,)
    others = [d for d in range(predicted_mean.dim()) if d != 1]
    squared = F.mse_loss(predicted_mean, teacher_feature, reduction="none").sum(dim=others)  # (C,)
    num_each = predicted_mean.numel() // predicted_mean.shape[1]  # elements a channel
    total = (squared / variance + num_each * torch.log(variance)).sum() / 2
    return total / max(predicted_mean.numel(), 1)
