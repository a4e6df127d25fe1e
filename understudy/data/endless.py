"""Augmentation with endlessly many views: a view is still a number, and the number says everything about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.data.counter import Stream, integers, random_bits, uniform

_TRIES = 10  # crops tried before the central one is taken, as in torchvision
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


class EndlessViews:
    """What an augmentation has whose views are drawn from 2^62, or from ``fixed`` of every image."""

    __slots__ = ()
    fixed: int | None

    def check_fixed(self) -> None:
        """Refuses fewer views than one."""
        if self.fixed is not None and self.fixed < 1:
            raise ValueError(
                f"fixed must be at least 1 view an image, got {self.fixed}. Leave it out for endless ones"
            )

    @property
    def num_views(self) -> int:
        """How many views an image has, or can be told apart."""
        return self.fixed or 2**62

    @property
    def finite(self) -> bool:
        """Whether the views are few enough to come again."""
        return self.fixed is not None

    def views(self, seed: int, epoch: int | Tensor, index: Tensor) -> Tensor:
        """Returns the view ``(B,)`` of the images ``index`` ``(B,)`` int64 in ``epoch``, on their device."""
        return endless_views(self.fixed, seed, epoch, index)


@dataclass(frozen=True, slots=True)
class ResizedCrop(EndlessViews):
    """A crop of random area and shape scaled to the image's size, maybe mirrored, its colours maybe changed.

    ImageNet's usual augmentation. The number of a view is drawn from ``(seed, epoch, index)``; everything about the
    view is drawn from its number (with ``fixed``, from image and number): shape, place, mirror and colours. So a view
    can be made again, in any order, on any device. Scaling is bilinear without antialiasing (torchvision's
    ``antialias=False``); colours change in a fixed order: brightness, contrast, saturation.

    Example:
        >>> import torch
        >>> from understudy.data.endless import ResizedCrop
        >>> augment = ResizedCrop()
        >>> images, rows = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([1, 0])
        >>> view = augment.views(seed=0, epoch=3, index=rows)
        >>> augment.render(images, rows, view, torch.zeros(3), torch.ones(3)).shape
        torch.Size([2, 3, 32, 32])
    """

    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width over height."""
    flip: bool = True
    """Whether half of the views are mirrored left to right."""
    colour: float = 0.0
    """Brightness, contrast and saturation are multiplied by a factor up to this far from 1."""
    fixed: int | None = None
    """Show only so many views of each image, drawn once and for all, so that a teacher's answers can be kept."""
    whole: bool = field(default=False, repr=False)  # of no table of answers, so not in what it belongs to
    """Crops come out of whole images while these are decoded (torchvision's own order, antialiased), not out of
    decoded squares: what :meth:`crop` is given are crops already."""

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"scale must be two rising shares in (0, 1], got {self.scale}. 0.08 and 1 are usual"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(
                f"ratio must be two rising numbers above 0, got {self.ratio}. 0.75 and 1.333 are usual"
            )
        if not 0 <= self.colour < 1:
            raise ValueError(f"colour must lie in [0, 1), got {self.colour}. 0.4 is usual")
        self.check_fixed()

    def boxes(self, view: Tensor, height: int, width: int) -> Tensor:
        """Returns top, left, height and width of every view's crop in pixels, float64 ``(B, 4)``.

        As torchvision's ``RandomResizedCrop``: the first of ten crops that fits, else the largest central one whose
        shape is allowed.
        """
        drawn = draws(view, 2 * _TRIES + 2)
        area = height * width * _between(drawn[:, :_TRIES], *self.scale)
        aspect = _between(
            drawn[:, _TRIES : 2 * _TRIES], math.log(self.ratio[0]), math.log(self.ratio[1])
        ).exp()
        w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
        first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
        shape = min(max(width / height, self.ratio[0]), self.ratio[1])
        whole_w, whole_h = min(width, round(height * shape)), min(height, round(width / shape))
        some = fits.any(dim=1)
        w = torch.where(some, w.gather(1, first)[:, 0], float(whole_w))
        h = torch.where(some, h.gather(1, first)[:, 0], float(whole_h))
        top = torch.where(some, (drawn[:, -2] * (height - h + 1)).floor(), float((height - whole_h) // 2))
        left = torch.where(some, (drawn[:, -1] * (width - w + 1)).floor(), float((width - whole_w) // 2))
        return torch.stack((top, left, h, w), dim=1)

    def crop(self, images: Tensor, rows: Tensor, view: Tensor, place: Tensor | None = None) -> Tensor:
        """Returns one view each of some images, float32 from 0 to 1; arguments as :meth:`PadCropFlip.crop` has them.

        Shape:
            images: ``(N, C, H, W)`` uint8; rows, view, place: ``(B,)``; output: ``(B, C, H, W)``.
        """
        batch = images.index_select(0, rows).float() / 255
        height, width = batch.shape[2:]
        view = own_number(self.fixed, view, rows if place is None else place)
        if self.whole:
            batch = torch.where(self._mirrored(view)[:, None, None, None], batch.flip(3), batch)
        else:
            batch = _resized(batch, self.boxes(view, height, width), self._mirrored(view))
        return self._coloured(batch, view) if self.colour else batch

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
        """Returns :meth:`crop`, normalised; arguments as :meth:`PadCropFlip.render` has them."""
        batch = self.crop(images, rows, view, place)
        scaled = (batch - mean[:, None, None]) / std[:, None, None]
        return scaled.to(dtype).contiguous(memory_format=memory_format)

    def _mirrored(self, view: Tensor) -> Tensor:
        return draws(view, 1, 100)[:, 0] < (0.5 if self.flip else 0.0)

    def _coloured(self, batch: Tensor, view: Tensor) -> Tensor:
        factors = _between(draws(view, 3, 200), 1 - self.colour, 1 + self.colour).to(batch.dtype)
        brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)
        batch = (batch * brightness).clamp(0, 1)
        batch = _mixed(batch, _grey(batch).mean(dim=(1, 2, 3), keepdim=True), contrast)
        return _mixed(batch, _grey(batch), saturation)


def endless_views(fixed: int | None, seed: int, epoch: int | Tensor, index: Tensor) -> Tensor:
    """Returns numbers of views ``(B,)``: one of ``fixed``, or of 2^62, which practically never come again."""
    if fixed is not None:
        return integers(fixed, seed, Stream.VIEW, epoch, index)
    return random_bits(seed, Stream.VIEW, epoch, index) & (2**62 - 1)


def own_number(fixed: int | None, view: Tensor, place: Tensor) -> Tensor:
    """Returns the number that says everything about a view: with ``fixed``, every image has views of its own."""
    return view if fixed is None else place * fixed + view


def draws(view: Tensor, count: int, first: int = 0) -> Tensor:
    """Returns ``count`` numbers in [0, 1) for every view, float64 ``(B, count)``."""
    number = torch.arange(first, first + count, device=view.device)
    return uniform(0, Stream.VIEW, view[:, None], number[None, :])


def _between(share: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * share


def _resized(batch: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Returns the boxes ``(B, 4)`` of a batch, each scaled to the batch's size, bilinear."""
    height, width = batch.shape[2:]
    top, left, h, w = boxes.unbind(dim=1)
    y = _coordinates(top, h, height)
    x = _coordinates(left, w, width)
    return sampled(batch, y, torch.where(mirrored[:, None], x.flip(1), x))


def sampled(batch: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Returns a batch ``(B, C, H, W)`` read at rows ``y`` ``(B, h)`` and columns ``x`` ``(B, w)``, bilinear.

    In pixels, 0 the centre of the first; beyond the rim is what the rim is.
    """
    height, width = batch.shape[2:]
    grid = torch.stack(
        (
            ((2 * x + 1) / width - 1)[:, None, :].expand(-1, y.shape[1], -1),
            ((2 * y + 1) / height - 1)[:, :, None].expand(-1, -1, x.shape[1]),
        ),
        dim=3,
    )
    return F.grid_sample(
        batch, grid.to(batch.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )


def _coordinates(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Returns where in the source the pixels of a scaled crop lie, ``(B, size)``, never beyond the crop's rim."""
    step = (torch.arange(size, device=first.device, dtype=torch.float64) + 0.5) / size
    inside = (step[None, :] * length[:, None] - 0.5).clamp_min(0)
    return first[:, None] + torch.minimum(inside, length[:, None] - 1)


def _grey(batch: Tensor) -> Tensor:
    if batch.shape[1] == 1:
        return batch
    weights = torch.tensor(_LUMA, dtype=batch.dtype, device=batch.device).view(1, 3, 1, 1)
    return (batch * weights).sum(dim=1, keepdim=True)


def _mixed(batch: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (share * batch + (1 - share) * other).clamp(0, 1)
