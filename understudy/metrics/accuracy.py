"""Top-k accuracy, as counts that stay on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.metrics.contract import check_labelled


def correct(logits: Tensor, target: Tensor, k: Sequence[int] = (1, 5)) -> Tensor:
    """Returns how many samples have their true class among the k highest logits, for every k.

    Counts of batches and of ranks add up; divide by the number of samples, times 100, for percent. Nothing is
    read on the host, so the call costs no synchronisation.

    Ties are broken by class number, the lower class first, on every device: a network that answers with the
    same logit everywhere is right on class 0 only, not on all. A NaN never helps: it ranks above every
    number, and a sample whose own logit is NaN counts as wrong.

    Args:
        logits: scores of all classes.
        target: class numbers.
        k: which top-k to count; a k above C means C.

    Returns:
        int64 counts on the logits' device, in the order of ``k``.

    Raises:
        ValueError: a shape or dtype is wrong, ``k`` is empty or holds a number below 1.

    Shape:
        logits: ``(B, C)``; target: ``(B,)``; output: ``(len(k),)``.

    Example:
        >>> import torch
        >>> from understudy.metrics import correct
        >>> logits = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
        >>> correct(logits, torch.tensor([1, 1]), k=(1, 2)).tolist()
        [1, 2]
    """
    check_labelled(logits, target)
    if not k or min(k) < 1:
        raise ValueError(f"k must hold numbers from 1 up, got {tuple(k)}. Give for instance k=(1, 5)")
    num_classes = logits.shape[1]
    own_class = target[:, None]  # (B, 1)
    own = logits.gather(1, own_class)
    classes = torch.arange(num_classes, device=logits.device)
    # said of the classes that are *not* ahead of the true one, because every comparison with NaN is false
    behind = (logits < own) | ((logits == own) & (classes >= own_class))  # (B, C)
    rank = (~behind).sum(dim=1)  # (B,) classes ahead of the true one; C where its own logit is NaN
    return torch.stack([(rank < min(top, num_classes)).sum() for top in k])
