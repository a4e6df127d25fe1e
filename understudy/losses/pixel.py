"""Logit losses on every pixel, for segmentation."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.binary_kl import binary_kl_loss, binary_kl_norm_loss
from understudy.losses.contract import check_floating, full_precision
from understudy.losses.dkd import dkd_loss, nckd_loss, tckd_loss
from understudy.losses.kd import kd_loss
from understudy.losses.logit_mse import logit_mse_loss
from understudy.losses.ttm import ttm_loss, wttm_loss

PIXEL_LOSSES: dict[str, Callable[..., Tensor]] = {
    "binary_kl": binary_kl_loss,
    "binary_kl_norm": binary_kl_norm_loss,
    "dkd": dkd_loss,
    "kd": kd_loss,
    "logit_mse": logit_mse_loss,
    "nckd": nckd_loss,
    "tckd": tckd_loss,
    "ttm": ttm_loss,
    "wttm": wttm_loss,
}
"""The losses that make sense of one pixel alone, by config name."""

_READ_TARGET = frozenset({"dkd", "nckd", "tckd"})


@full_precision()
def pixel_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    loss: str,
    ignore_index: int | None = 255,
    **params: Any,
) -> Tensor:
    """Returns a logit loss with every pixel as a sample, averaged over the pixels that are not ignored.

    For loops of one's own: it compares at the student's resolution. A segmentation run brings both maps to the mask's
    size instead, as segmentation is scored.

    Args:
        student_logits: what learns; its resolution is the one compared at.
        teacher_logits: what is learned from; detached, resized bilinearly if its resolution differs.
        target: class numbers, resized to the nearest if their resolution differs.
        loss: function or config name of the loss, such as ``"dkd_loss"`` or ``"dkd"``.
        ignore_index: target value of pixels that do not count; ``None`` keeps all.
        params: keyword arguments of that loss.

    Returns:
        0-d tensor: the sum over kept pixels divided by their number; 0 if there are none.

    Raises:
        ValueError: ``loss`` is unknown, logits are not floating ``(B, C, H, W)`` of one B and C, ``target``
            is not int64 ``(B, H, W)``; and as the loss itself.

    Shape:
        student_logits: ``(B, C, H, W)``; teacher_logits: ``(B, C, H_t, W_t)``; target: ``(B, H_l, W_l)``;
            output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import pixel_loss
        >>> student, teacher = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
        >>> float(pixel_loss(student, teacher, torch.zeros(1, 2, 2, dtype=torch.int64), "logit_mse"))
        1.0

    Reference: the per-pixel form that segmentation tables of distillation papers use, e.g. Liu et al.,
    Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019: pixel-wise distillation.
    """
    name = loss.removesuffix("_loss")
    if name not in PIXEL_LOSSES:
        near = difflib.get_close_matches(name, PIXEL_LOSSES, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Choose one of them"
        raise ValueError(f"loss must be one of {', '.join(PIXEL_LOSSES)}, got {loss!r}. {hint}")
    _check(student_logits, teacher_logits, target)
    height, width = student_logits.shape[2:]
    if teacher_logits.shape[2:] != (height, width):
        teacher_logits = F.interpolate(
            teacher_logits, size=(height, width), mode="bilinear", align_corners=False
        )
    target = _nearest(target, height, width).flatten()  # (B·H·W,)
    kept = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    label = (torch.where(kept, target, 0),) if name in _READ_TARGET else ()
    each = PIXEL_LOSSES[name](
        _rows(student_logits), _rows(teacher_logits), *label, reduction="none", **params
    )
    return (each * kept).sum() / kept.sum().to(each.dtype).clamp(min=1)


def _rows(logits: Tensor) -> Tensor:
    """Returns ``(B·H·W, C)`` of ``(B, C, H, W)``; a view if the memory is channels-last."""
    return logits.permute(0, 2, 3, 1).flatten(0, 2)


def _nearest(target: Tensor, height: int, width: int) -> Tensor:
    """Returns ``(B, height, width)`` labels; by index, since interpolation knows no integers."""
    h, w = target.shape[1:]
    if (h, w) == (height, width):
        return target
    rows = torch.arange(height, device=target.device) * h // height
    columns = torch.arange(width, device=target.device) * w // width
    return target.index_select(1, rows).index_select(2, columns)


def _check(student: Tensor, teacher: Tensor, target: Tensor) -> None:
    if student.dim() != 4 or teacher.dim() != 4 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            "student and teacher logits must both have shape (B, C, H, W) with one B and C, got student "
            f"{tuple(student.shape)} and teacher {tuple(teacher.shape)}. "
            "If the class spaces differ, distil features instead"
        )
    check_floating(student_logits=student, teacher_logits=teacher)
    if target.dtype != torch.int64 or target.dim() != 3 or target.shape[0] != student.shape[0]:
        raise ValueError(
            f"target must be int64 of shape ({student.shape[0]}, H, W), got {target.dtype} of shape "
            f"{tuple(target.shape)}. Give class numbers, one a pixel"
        )
