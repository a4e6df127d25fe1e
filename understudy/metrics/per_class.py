"""Accuracy of every class by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.metrics.contract import check_labelled
from understudy.widest import widen, widest


@torch.no_grad()
def per_class_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns for every class the share of its samples that are given that class.

    Args:
        logits: scores of all classes, of the whole set.
        target: class numbers.

    Returns:
        float64 shares from 0 to 1 (not percent); NaN for a class without samples.

    Raises:
        ValueError: a shape or dtype is wrong.

    Shape:
        logits: ``(B, C)``; target: ``(B,)``; output: ``(C,)``.

    Example:
        >>> import torch
        >>> from understudy.metrics import per_class_accuracy
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
        >>> per_class_accuracy(logits, torch.tensor([0, 0, 1])).tolist()
        [0.5, 1.0, nan]
    """
    check_labelled(logits, target)
    count, right = torch.zeros(2, logits.shape[1], dtype=widest(logits.device), device=logits.device).unbind()
    count.index_add_(0, target, widen(torch.ones_like(target)))
    right.index_add_(0, target, widen(logits.argmax(dim=1) == target))
    return right / count
