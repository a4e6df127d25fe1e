"""Images with boxes around their objects, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.data.decode import check_some
from understudy.data.images import ImageSet
from understudy.data.views import PadCropFlip

CLASS, CROWD, AREA, SCALE = 0, 5, 6, 7
"""Columns of a row of a target beside the box (1 to 4, :data:`understudy.models.detection.BOX`)."""
COLUMNS = 8


@dataclass(frozen=True, slots=True, eq=False)
class BoxSet(ImageSet):
    """Images of one size with rows of objects: ``targets`` is ``(N, M, 8)`` float32.

    A row is class number (1 to C; -1: no row), left, top, right, bottom in pixels of the image as it is here, the class
    of a crowd (0: it is none; a crowd's own class number is 0, so that nobody learns from it, and its box is ignored in
    scores), its area in pixels of the image as it was read, and by how much that was scaled, which all rows of an image
    say.
    """

    notes: tuple[str, ...] = ()
    """What was found in the files and left out, one line each."""

    def check(self, *, unlabelled: bool = False) -> BoxSet:
        """Returns the set itself if it can be trained on or measured.

        Raises:
            ValueError: there is no image, or the targets are no rows of objects.
        """
        del unlabelled
        check_some(self.name, len(self))
        shape = tuple(self.targets.shape)
        if len(shape) != 3 or shape[::2] != (len(self), COLUMNS) or self.targets.dtype != torch.float32:
            raise ValueError(
                f"targets of {self.name} must be float32 rows (N, M, {COLUMNS}), got {self.targets.dtype} {shape}. "
                "Use a reader of boxes"
            )
        return self

    @property
    def boxes_by_class(self) -> Tensor:
        """How many objects each class has, crowds left out, ``(C,)`` int64."""
        return (
            self.targets[..., CLASS]
            .long()
            .clamp_min(0)
            .flatten()
            .bincount(minlength=self.num_classes + 1)[1:]
        )


def padded(rows: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Returns the targets ``(N, M, 8)`` of images with rows ``(m, 7)`` (all columns but the scale); M is at least 1."""
    most = max([1, *(len(row) for row in rows)])
    targets = torch.zeros(len(rows), most, COLUMNS)
    targets[..., CLASS] = -1
    for target, row, scale in zip(targets, rows, scales, strict=True):
        target[: len(row), :SCALE] = row
        target[:, SCALE] = scale
    return targets


def mirrored(targets: Tensor, augment: PadCropFlip, view: Tensor, width: int) -> Tensor:
    """Returns the rows of views that may be mirrored left to right.

    Args:
        targets: of the images, ``(B, M, 8)``.
        augment: which makes the views; it pads nothing.
        view: of each image, ``(B,)``.
        width: of the images.
    """
    flip = augment.offsets(view)[2].bool() & augment.flip
    other = targets.clone()
    other[..., 1], other[..., 3] = width - targets[..., 3], width - targets[..., 1]
    return torch.where(flip[:, None, None], other, targets)
