"""The confusion matrix: which class is taken for which."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.metrics.contract import check_labelled


def confusion_matrix(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the counts of (true class, predicted class).

    The prediction is the highest logit, the lower class in a tie; matrices of batches and of ranks add up.
    The trace is the number of correct samples, row k sums to the number of samples of class k.

    Args:
        logits: scores of all classes.
        target: class numbers.

    Returns:
        int64 counts on the logits' device: rows true, columns predicted.

    Raises:
        ValueError: a shape or dtype is wrong.

    Shape:
        logits: ``(B, C)``; target: ``(B,)``; output: ``(C, C)``.

    Example:
        >>> import torch
        >>> from understudy.metrics import confusion_matrix
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
        >>> confusion_matrix(logits, torch.tensor([0, 0, 1])).tolist()
        [[1, 1], [0, 1]]
    """
    check_labelled(logits, target)
    num_classes = logits.shape[1]
    cell = target * num_classes + logits.argmax(dim=1)  # (B,) row-major
    counts = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=logits.device)
    # bincount would read its largest entry on the host
    return counts.index_add_(0, cell, torch.ones_like(cell)).view(num_classes, num_classes)
