"""Channel-wise distillation: where in the image each channel looks (Shu et al., 2021)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_same_shape, check_temperature, full_precision, reduce


@full_precision()
def cwd_loss(student_feature: Tensor, teacher_feature: Tensor, temperature: float = 4.0) -> Tensor:
    r"""Returns :math:`\tau^2 \mathrm{KL}(p_t \| p_s)` of softmaxes over space, averaged over B and C.

    Args:
        student_feature: maps or per-pixel logits that learn.
        teacher_feature: what is learned from, at the same shape; detached.
        temperature: τ, by which both sides are divided.

    Returns:
        0-d tensor, from 0 up (in nats times τ²): summed over H and W, averaged over B and C.

    Raises:
        ValueError: shapes differ or are not ``(B, C, H, W)``, features are not floating,
            ``temperature <= 0``.

    Shape:
        student_feature, teacher_feature: ``(B, C, H, W)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import cwd_loss
        >>> maps = torch.arange(8.0).view(1, 2, 2, 2)
        >>> float(cwd_loss(maps + 3, maps))  # a channel's level does not matter
        0.0

    Reference: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021, which
    divides by C as here. The paper writes one image; the average over the batch is ours to state, so that
    the weight does not depend on the batch size.
    """
    check_same_shape(student_feature, teacher_feature, rank=4)
    check_temperature(temperature)
    log_s = F.log_softmax(student_feature.flatten(2) / temperature, dim=2)  # (B, C, H·W)
    log_t = F.log_softmax(teacher_feature.flatten(2) / temperature, dim=2)
    return reduce((log_t.exp() * (log_t - log_s)).sum(dim=2) * temperature**2, "mean")
