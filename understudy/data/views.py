"""Finite augmentations: every image has a fixed number of views, and a view is a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.data.counter import Stream, integers
from understudy.data.endless import ResizedCrop
from understudy.data.normalisation import normalise
from understudy.data.scale_crop import ScaleCropFlip


@dataclass(frozen=True, slots=True)
class PadCropFlip:
    """Pads with black, crops back to the image's size, maybe mirrors: CIFAR's usual augmentation, counted.

    View ``v`` is ``flip * S² + dy * S + dx`` with ``S = 2 * pad + 1``: the window whose upper left corner is
    ``dy`` pixels down and ``dx`` to the right in the padded image, and mirrored left to right if ``flip`` is
    1. A padding of 4 with flips has 162 views, drawn evenly, as by torchvision's ``RandomCrop(size,
    padding=4)`` and ``RandomHorizontalFlip()``.

    Example:
        >>> import torch
        >>> from understudy.data import PadCropFlip
        >>> augment = PadCropFlip(pad=4)
        >>> augment.num_views, augment.identity
        (162, 40)
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> PadCropFlip(pad=1).crop(image, torch.tensor([0, 0]), torch.tensor([4, 13])).tolist()
        [[[[1, 2], [3, 4]]], [[[2, 1], [4, 3]]]]
    """

    finite: ClassVar[bool] = True
    """Whether the views are few enough to come again."""

    pad: int = 4
    """Pixels of black on each side."""
    flip: bool = True
    """Whether mirrored views exist."""

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0 pixels, got {self.pad}. 0 is no crop at all")

    @property
    def num_views(self) -> int:
        """Number of views of an image."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    @property
    def identity(self) -> int:
        """The view that is the image itself: the central crop, not mirrored."""
        return self.pad * (2 * self.pad + 1) + self.pad

    def views(self, seed: int, epoch: int, index: Tensor) -> Tensor:
        """Returns the view ``(B,)`` of the images ``index`` ``(B,)`` int64 in ``epoch``, on their device."""
        return integers(self.num_views, seed, Stream.VIEW, epoch, index)

    def offsets(self, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns ``dy``, ``dx`` and ``flip`` (0 or 1) of every view, int64 of the shape of ``view``."""
        side = 2 * self.pad + 1
        return view // side % side, view % side, view // side**2

    def crop(self, images: Tensor, rows: Tensor, view: Tensor) -> Tensor:
        """Returns one view each of some images, as uint8.

        A few batched copies: no loop over samples, nothing read on the host. Windows of the padded batch
        overlap in memory, so picking one an image is a plain copy of rows (on a CPU 10 times faster than
        gathering pixel by pixel).

        Args:
            images: the resident set, uint8.
            rows: which images, int64.
            view: which view of each, int64 in ``[0, num_views)``.

        Shape:
            images: ``(N, C, H, W)``; rows, view: ``(B,)``; output: ``(B, C, H, W)``.
        """
        batch = images.index_select(0, rows)
        dy, dx, flip = self.offsets(view)
        if self.pad:
            batch = _windows(F.pad(batch, (self.pad,) * 4), batch.shape, dy, dx)
        if self.flip:
            either = torch.cat((batch, batch.flip(3)))
            batch = either.index_select(0, _numbers(rows) + flip * len(rows))
        return batch

    def render(
        self,
        images: Tensor,
        rows: Tensor,
        view: Tensor,
        mean: Tensor,
        std: Tensor,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """Returns :meth:`crop`, normalised: black padding comes before normalisation, as in torchvision.

        Args:
            images: as in :meth:`crop`.
            rows: as in :meth:`crop`.
            view: as in :meth:`crop`.
            mean: of every channel, in units of the full range (0 to 1), ``(C,)`` float32.
            std: likewise.
            dtype: of the result.
            memory_format: of the result.
        """
        return normalise(self.crop(images, rows, view), mean, std, dtype, memory_format)


Augment: TypeAlias = PadCropFlip | ResizedCrop | ScaleCropFlip
"""What shows an image differently each time."""

NO_AUGMENT = PadCropFlip(pad=0, flip=False)
"""One view: the image itself."""


def _windows(padded: Tensor, shape: torch.Size, dy: Tensor, dx: Tensor) -> Tensor:
    """Returns the part at ``(dy, dx)`` ``(B,)`` of each of the ``padded`` images, of ``shape`` in all."""
    image, *steps = padded.stride()
    covered = 1 + sum((n - 1) * step for n, step in zip(shape[1:], steps, strict=True))  # memory of one
    starts = max(padded.numel() - covered + 1, 0)  # 0 for a batch of none
    every = padded.as_strided((starts, *shape[1:]), (1, *steps))
    return every.index_select(0, _numbers(dy) * image + dy * steps[1] + dx * steps[2])


def _numbers(like: Tensor) -> Tensor:
    return torch.arange(len(like), device=like.device)
