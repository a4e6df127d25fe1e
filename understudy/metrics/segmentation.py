"""Scores of a segmentation, from one table of counts: which class each labelled pixel has, and which it was given."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.widest import widen


@torch.no_grad()
def pixel_confusion(predicted: Tensor, target: Tensor, num_classes: int, ignore: int = 255) -> Tensor:
    """Returns how many pixels of each class (rows) were given each class (columns).

    Tables of parts of a set add up to that of the whole, exactly, however it is divided. Nothing is read on the host.

    Args:
        predicted: class numbers.
        target: class numbers, or ``ignore``; those pixels, and all others outside ``[0, num_classes)``, are left out.
        num_classes: C.
        ignore: see ``target``.

    Returns:
        ``(C, C)`` int64.

    Raises:
        ValueError: the shapes differ.

    Shape:
        predicted, target: any one shape.

    Example:
        >>> import torch
        >>> from understudy.metrics import pixel_confusion
        >>> pixel_confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), 2).tolist()
        [[1, 1], [0, 0]]
    """
    if predicted.shape != target.shape:
        raise ValueError(
            f"predicted and target must have one shape, got {tuple(predicted.shape)} and {tuple(target.shape)}. "
            "Bring the logits to the mask's size first"
        )
    target = target.flatten().long()
    counted = (target >= 0) & (target < num_classes) & (target != ignore)
    place = torch.where(
        counted, target * num_classes + predicted.flatten(), num_classes**2
    )  # the last: left out
    table = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=target.device)
    return table.scatter_add_(0, place, torch.ones_like(place))[:-1].view(num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """Returns the intersection over union of every class, ``(C,)`` float64 from 0 to 1.

    NaN for a class that no labelled pixel has and none was given.

    Args:
        confusion: :func:`pixel_confusion` of a whole set, ``(C, C)``.

    Reference: Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015, section 4.3.
    """
    right = widen(confusion.diagonal())
    return right / (confusion.sum(dim=0) + confusion.sum(dim=1) - confusion.diagonal())


def mean_iou(confusion: Tensor) -> float:
    """Returns the mean of :func:`class_iou` over the classes that occur, in percent; 0 where none does.

    Args:
        confusion: :func:`pixel_confusion` of a whole set, ``(C, C)``. (The mean of images' mIoU is another number.)

    Example:
        >>> import torch
        >>> from understudy.metrics import mean_iou
        >>> mean_iou(torch.tensor([[3, 1], [0, 4]]))  # 3/4 and 4/5
        77.5
    """
    each = class_iou(confusion)
    occurring = each[~each.isnan()]
    return 100.0 * float(occurring.mean()) if len(occurring) else 0.0


def pixel_accuracy(confusion: Tensor) -> float:
    """Returns the share of labelled pixels that were given their class, in percent; 0 where there is none.

    Args:
        confusion: :func:`pixel_confusion`, ``(C, C)``.
    """
    return 100.0 * float(confusion.diagonal().sum()) / max(int(confusion.sum()), 1)
