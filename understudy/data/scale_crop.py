"""Random scale, crop and mirror of an image and its mask together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from understudy.data.endless import draws, endless_views, sampled
from understudy.interface import IGNORE


@dataclass(frozen=True, slots=True)
class ScaleCropFlip:
    """A window of the scaled image, maybe mirrored: the usual augmentation of segmentation.

    The number of a view is drawn from ``(seed, epoch, index)``; scale, place and mirror are drawn from its number
    alone, so image and mask agree, and a view can be made again, in any order, on any device. Where the scaled image
    is smaller than the window it lies anywhere in it: around it is the mean colour, and the mask is ignored.

    Images are read bilinearly, masks at the nearest pixel (without antialiasing). No view comes again.

    Example:
        >>> import torch
        >>> from understudy.data import ScaleCropFlip
        >>> augment = ScaleCropFlip(crop=(24, 24))
        >>> images, masks = torch.zeros(2, 3, 32, 48, dtype=torch.uint8), torch.zeros(2, 32, 48, dtype=torch.uint8)
        >>> rows = torch.tensor([1, 0])
        >>> view = augment.views(seed=0, epoch=3, index=rows)
        >>> augment.render(images, rows, view, torch.zeros(3), torch.ones(3)).shape
        torch.Size([2, 3, 24, 24])
        >>> augment.masks(masks, rows, view).shape
        torch.Size([2, 24, 24])
    """

    finite: ClassVar[bool] = False
    """Whether the views are few enough to come again."""
    num_views: ClassVar[int] = 2**62
    """How many views of an image can be told apart."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest factor, drawn evenly."""
    crop: tuple[int, int] | None = None
    """Height and width of the window in pixels; by default the image's."""
    flip: bool = True
    """Whether half of the views are mirrored left to right."""

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"data.augment.zoom must be two rising factors above 0, got {self.scale}. 0.5 and 2 are usual"
            )
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"data.augment.crop must be at least 1 pixel, got {self.crop}. 512 is usual")

    def views(self, seed: int, epoch: int | Tensor, index: Tensor) -> Tensor:
        """Returns the view ``(B,)`` of the images ``index`` ``(B,)`` int64 in ``epoch``, on their device."""
        return endless_views(None, seed, epoch, index)

    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Returns height and width of a view of an image of a size."""
        return self.crop or image_size

    def coordinates(self, view: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Returns where in the image the rows and the columns of each view lie, float64 ``(B, h)`` and ``(B, w)``.

        In pixels, 0 the centre of the first; below -0.5 or above the last pixel's edge is outside of the image.
        """
        drawn = draws(view, 4)
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * drawn[:, 0]
        wanted = self.size(image_size)
        y = _along(image_size[0], wanted[0], scale, drawn[:, 1])
        x = _along(image_size[1], wanted[1], scale, drawn[:, 2])
        mirrored = drawn[:, 3] < (0.5 if self.flip else 0.0)
        return y, torch.where(mirrored[:, None], x.flip(1), x)

    def render(
        self,
        images: Tensor,
        rows: Tensor,
        view: Tensor,
        mean: Tensor,
        std: Tensor,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        place: Tensor | None = None,
    ) -> Tensor:
        """Returns one view each of some images, normalised; arguments as :meth:`PadCropFlip.render` has them.

        Shape:
            images: ``(N, C, H, W)`` uint8; rows, view: ``(B,)``; output: ``(B, C, h, w)``.
        """
        del place
        batch = images.index_select(0, rows).float() / 255
        height, width = batch.shape[2:]
        y, x = self.coordinates(view, (height, width))
        inside = _inside(y, height)[:, None, :, None] & _inside(x, width)[:, None, None, :]
        scaled = torch.where(inside, (sampled(batch, y, x) - mean[:, None, None]) / std[:, None, None], 0.0)
        return scaled.to(dtype).contiguous(memory_format=memory_format)

    def masks(self, masks: Tensor, rows: Tensor, view: Tensor) -> Tensor:
        """Returns the same views of the masks, :data:`IGNORE` outside of the image.

        Shape:
            masks: ``(N, H, W)`` uint8; rows, view: ``(B,)``; output: ``(B, h, w)``.
        """
        height, width = masks.shape[1:]
        y, x = self.coordinates(view, (height, width))
        inside = _inside(y, height)[:, :, None] & _inside(x, width)[:, None, :]
        nearest = masks[rows[:, None, None], _nearest(y, height)[:, :, None], _nearest(x, width)[:, None, :]]
        return torch.where(inside, nearest, IGNORE)


def _along(length: int, wanted: int, scale: Tensor, place: Tensor) -> Tensor:
    """Returns the source coordinates of a window of ``wanted`` pixels in ``length`` scaled ones, ``(B, wanted)``."""
    scaled = (length * scale).round()
    room = scaled - wanted  # below 0: the scaled image lies within the window
    first = torch.where(room >= 0, (place * (room + 1)).floor(), -(place * (1 - room)).floor())
    pixel = torch.arange(wanted, device=scale.device, dtype=torch.float64)
    return (first[:, None] + pixel[None, :] + 0.5) * (length / scaled)[:, None] - 0.5


def _inside(place: Tensor, length: int) -> Tensor:
    return (place >= -0.5) & (place <= length - 0.5)


def _nearest(place: Tensor, length: int) -> Tensor:
    return (place + 0.5).floor().long().clamp(0, length - 1)
