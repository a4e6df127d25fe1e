"""Fine-grained feature imitation for detectors: learn the map near objects (Wang et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_floating, check_same_shape, full_precision


@full_precision()
def fgfi_loss(student_feature: Tensor, teacher_feature: Tensor, mask: Tensor) -> Tensor:
    """Returns the squared difference at the masked locations, over twice the number of locations.

    Args:
        student_feature: the adapter's map.
        teacher_feature: the teacher's map; detached.
        mask: which locations count (non-zero), from :func:`fgfi_mask`.

    Returns:
        0-d tensor, from 0 up: summed over channels, averaged over the locations of the whole batch, halved; 0
        if there are none. Levels of a pyramid are one loss when their flattened locations are concatenated
        before the call.

    Raises:
        ValueError: features differ in shape or are no maps, ``mask`` is not ``(B, 1, H, W)``, features are
            not floating.

    Shape:
        student_feature, teacher_feature: ``(B, C, H, W)``; mask: ``(B, 1, H, W)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import fgfi_loss
        >>> mask = torch.tensor([True, False, False, True]).view(1, 1, 2, 2)
        >>> float(fgfi_loss(torch.ones(1, 6, 2, 2), torch.zeros(1, 6, 2, 2), mask))
        3.0

    Reference: Wang et al., Distilling Object Detectors with Fine-grained Feature Imitation, CVPR 2019.
    """
    check_same_shape(student_feature, teacher_feature, rank=4)
    batch, _, height, width = student_feature.shape
    if mask.shape != (batch, 1, height, width):
        raise ValueError(
            f"mask must have shape ({batch}, 1, {height}, {width}), got {tuple(mask.shape)}. "
            "Stack one mask an image, of the size of this level"
        )
    on = mask != 0
    squared = F.mse_loss(student_feature, teacher_feature, reduction="none")
    count = on.sum().to(squared.dtype).clamp(min=1)
    return (squared * on).sum() / (2 * count)


@full_precision()
def fgfi_mask(anchors: Tensor, boxes: Tensor, shape: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Returns where anchors overlap an object: IoU above ``threshold`` times the best one of that object.

    Args:
        anchors: the anchors of one level in (h, w, a) order, as ``x1, y1, x2, y2``.
        boxes: the image's ground truth, in the same coordinates; may be empty.
        shape: height and width of the level in locations.
        threshold: share of an object's best IoU on this level that an anchor must exceed.

    Returns:
        Bool mask: a location is on if any of its anchors is kept for any box.

    Raises:
        ValueError: ``anchors`` is not floating ``(H·W·A, 4)``, ``boxes`` is not floating ``(G, 4)``.

    Shape:
        anchors: ``(H·W·A, 4)``; boxes: ``(G, 4)``; output: ``(1, H, W)``.

    Example:
        >>> import torch
        >>> from understudy.losses import fgfi_mask
        >>> cells = torch.tensor([[0.0, 0, 1, 1], [1, 0, 2, 1], [0, 1, 1, 2], [1, 1, 2, 2]])
        >>> fgfi_mask(cells, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), (2, 2)).int().tolist()
        [[[1, 0], [0, 0]]]

    Reference: Wang et al., CVPR 2019: imitation region estimation.
    """
    height, width = shape
    locations = height * width
    num = anchors.shape[0] if anchors.dim() == 2 else 0
    if anchors.shape[1:] != (4,) or num == 0 or num % locations != 0:
        raise ValueError(
            f"anchors must have shape (H·W·A, 4) with H, W = {height}, {width}, got {tuple(anchors.shape)}. "
            "Give the anchors of this level only, all of them"
        )
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes must have shape (G, 4), got {tuple(boxes.shape)}. Use torch.zeros(0, 4) for no box"
        )
    check_floating(anchors=anchors, boxes=boxes)
    iou = _iou(anchors, boxes)  # (H·W·A, G)
    kept = iou > threshold * iou.amax(dim=0, keepdim=True)
    return kept.any(dim=1).view(1, height, width, num // locations).any(dim=3)


def _iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Returns ``(N, G)`` intersections over unions; 0 for pairs without area."""
    corner = torch.maximum(anchors[:, None, :2], boxes[None, :, :2])
    opposite = torch.minimum(anchors[:, None, 2:], boxes[None, :, 2:])
    overlap = (opposite - corner).clamp(min=0).prod(dim=2)
    area = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(dim=1) for b in (anchors, boxes)]
    union = area[0].unsqueeze(1) + area[1].unsqueeze(0) - overlap
    return torch.where(union > 0, overlap / torch.where(union > 0, union, 1.0), 0.0)
