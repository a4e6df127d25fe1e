"""Scores of multi-label classification: every class is there or not, by itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def average_precision(logits: Tensor, target: Tensor) -> Tensor:
    """Returns for every class the average precision of its logit as a score, over the images whose label is known.

    That is the area under the stepwise precision-recall curve, the mean of the precision at each new recall, without
    interpolation (scikit-learn's ``average_precision_score``). Images with equal logits are taken together.

    Args:
        logits: scores of all classes, of the whole set.
        target: 1 where a class is there, 0 where it is not, -1 where nobody knows.

    Returns:
        float64 shares from 0 to 1 (not percent) on the CPU; NaN for a class that no image is known to have. The mean
        over the others is the mean average precision, mAP.

    Raises:
        ValueError: shapes differ, the target holds other numbers, or a logit is NaN.

    Shape:
        logits, target: ``(B, C)``; output: ``(C,)``.

    Example:
        >>> import torch
        >>> from understudy.metrics import average_precision
        >>> logits = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
        >>> average_precision(logits, torch.tensor([[1, 0], [0, 0], [1, -1]])).tolist()
        [0.8333333333333333, nan]
    """
    from sklearn.metrics import average_precision_score  # seconds to import

    check_multilabel(logits, target)
    scores, wanted = logits.cpu().double().numpy(), target.cpu().numpy()
    if np.isnan(scores).any():
        raise ValueError("logits must be numbers, got NaN. Look for where the training went wrong")
    found = torch.full((logits.shape[1],), float("nan"), dtype=torch.float64)
    for c in range(logits.shape[1]):
        known = wanted[:, c] >= 0
        if (wanted[known, c] == 1).any():
            found[c] = float(average_precision_score(wanted[known, c], scores[known, c]))
    return found


@torch.no_grad()
def label_counts(logits: Tensor, target: Tensor) -> Tensor:
    """Returns how often every class was rightly found, wrongly found, missed, and rightly left out.

    A class is found where its probability is above a half, that is its logit above 0. Counts of batches and of
    processes add up, and nothing is read on the host.

    Args:
        logits: scores of all classes.
        target: 1 where a class is there, 0 where it is not, -1 where nobody knows: that is not counted.

    Returns:
        int64 counts: rows are true positives, false positives, false negatives, true negatives.

    Raises:
        ValueError: shapes differ.

    Shape:
        logits, target: ``(B, C)``; output: ``(4, C)``.

    Example:
        >>> import torch
        >>> from understudy.metrics import label_counts
        >>> label_counts(torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([[1, 0, -1]])).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    """
    check_shapes(logits, target)
    found, there, absent = logits > 0, target == 1, target == 0
    parts = (found & there, found & absent, ~found & there, ~found & absent)
    return torch.stack([part.sum(dim=0) for part in parts])


def micro_f1(counts: Tensor) -> float:
    """Returns 2 TP / (2 TP + FP + FN) over all classes together, a share; 0 if nothing is there and nothing found.

    Args:
        counts: of :func:`label_counts`, ``(4, C)``.
    """
    right, extra, missed, _ = counts.sum(dim=1).tolist()
    return 2 * right / max(2 * right + extra + missed, 1)


def check_multilabel(logits: Tensor, target: Tensor) -> None:
    """Checks logits and multi-label targets; reads the device.

    Raises:
        ValueError: shapes differ, or the target holds other numbers than 1, 0 and -1.
    """
    check_shapes(logits, target)
    if target.numel() and not bool(((target >= -1) & (target <= 1)).all()):
        wrong = target[(target < -1) | (target > 1)][0].item()
        raise ValueError(
            f"target must be 1 (there), 0 (not there) or -1 (not known), got {wrong}. Correct the labels"
        )


def check_shapes(logits: Tensor, target: Tensor) -> None:
    """Checks that there is a label for every logit.

    Raises:
        ValueError: there is not.
    """
    if logits.dim() != 2 or logits.shape != target.shape:
        raise ValueError(
            f"target must have a number for every logit, (B, C), got logits of shape {tuple(logits.shape)} and a "
            f"target of {tuple(target.shape)}. Give 1, 0 or -1 for every class"
        )
