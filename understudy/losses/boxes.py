"""The losses of a detector that learn from labelled boxes: whether there is an object, and where it is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import full_precision

_BETA = 1 / 9  # where the absolute error becomes a squared one, as in torchvision and Detectron2


@full_precision()
def objectness_loss(student_logits: Tensor, target: Tensor) -> Tensor:
    """Returns the binary cross-entropy of boxes that hold an object, or none.

    Args:
        student_logits: that there is one.
        target: 1 where there is, 0 where not; -1: the box does not count.

    Returns:
        0-d tensor: the mean over the counted boxes of an image, then over the images; an image without any gives 0.

    Shape:
        student_logits, target: ``(B, N)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses.boxes import objectness_loss
        >>> round(float(objectness_loss(torch.zeros(1, 3), torch.tensor([[1, 0, -1]]))), 4)
        0.6931

    Reference: Ren et al., Faster R-CNN, NeurIPS 2015, Eq. 1, the first term. torchvision takes one mean over the boxes
    of all images, which is the same where every image has as many.
    """
    counted = target >= 0
    wanted = (target > 0).to(student_logits.dtype)
    logits = torch.where(counted, student_logits, 0.0)  # so that what does not count has no gradient
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return _mean_of_images(torch.where(counted, each, 0.0), counted)


@full_precision()
def box_loss(student_deltas: Tensor, goals: Tensor, target: Tensor) -> Tensor:
    """Returns the smooth L1 distance between how boxes are moved and how they should be.

    Args:
        student_deltas: shift and logarithm of the scale of each box, in the units of the box coder.
        goals: likewise.
        target: above 0 where the box has an object to find, 0 for background; -1: the box does not count.

    Returns:
        0-d tensor: the sum over the boxes with an object, divided by the counted boxes of their image, background among
        them; the mean over the images.

    Shape:
        student_deltas, goals: ``(B, N, 4)``; target: ``(B, N)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses.boxes import box_loss
        >>> moved, goals = torch.zeros(1, 2, 4), torch.ones(1, 2, 4)
        >>> round(float(box_loss(moved, goals, torch.tensor([[3, 0]]))), 4)  # 4 · (1 - 1/18) / 2
        1.8889

    Reference: Girshick, Fast R-CNN, ICCV 2015, Eq. 2 and 3, with torchvision's beta of 1/9 and its divisor.
    """
    counted, found = target >= 0, target > 0
    deltas = torch.where(found[..., None], student_deltas, goals)
    each = F.smooth_l1_loss(deltas, goals, beta=_BETA, reduction="none").sum(dim=2)
    return _mean_of_images(torch.where(found, each, 0.0), counted)


def _mean_of_images(values: Tensor, counted: Tensor) -> Tensor:
    """Returns the sum of values over each image's number of counted boxes, averaged over the images."""
    each = values.sum(dim=1) / counted.sum(dim=1).clamp_min(1)
    return each.sum() / max(len(each), 1)
