"""Factor transfer: compare compressed factors (Kim et al., 2018)."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.at import attention
from understudy.losses.contract import full_precision, reduce
from understudy.losses.shapes import check_same_batch, pool_larger


@full_precision()
def ft_loss(student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
    """Returns the mean absolute difference of unit energy maps (the channels' mean square, over space).

    Args:
        student_factor: the translator's output.
        teacher_factor: the paraphraser's; detached. Channels and size may differ: the larger map is pooled.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: factors are not floating ``(B, C, H, W)`` with one B.

    Shape:
        student_factor: ``(B, C_s, H_s, W_s)``; teacher_factor: ``(B, C_t, H_t, W_t)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import ft_loss
        >>> factor = torch.arange(1.0, 9.0).view(1, 2, 2, 2)
        >>> float(ft_loss(factor, 2 * factor))
        0.0

    Reference: Kim, Park and Kwak, Paraphrasing Complex Network: Network Compression via Factor Transfer,
    NeurIPS 2018, with the absolute difference. The paper normalises the flattened factors; the energy map is
    that of the code the quoted tables were made with.
    """
    check_same_batch(student_factor, teacher_factor, rank=4, what="factor")
    student, teacher = pool_larger(student_factor, teacher_factor)
    return reduce((attention(student, 2) - attention(teacher, 2)).abs(), "mean")
