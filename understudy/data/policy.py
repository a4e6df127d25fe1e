"""RandAugment and AutoAugment by counter: after crop and flip, a few operations on the pixels, drawn from the view."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment as TorchvisionAutoAugment
from torchvision.transforms import AutoAugmentPolicy
from torchvision.transforms.v2 import functional as transforms

from understudy.data.counter import Stream, integers
from understudy.data.endless import EndlessViews, ResizedCrop, draws, own_number
from understudy.data.normalisation import normalise
from understudy.data.scale_crop import ScaleCropFlip
from understudy.data.undecoded import Undecoded
from understudy.data.views import Crop

Step: TypeAlias = tuple[str, float]
"""An operation and its magnitude, sign included; 0 where it takes none."""
PolicyName: TypeAlias = Literal["cifar10", "imagenet", "svhn"]

_FIRST = 300  # draws of a view from here on; those before are the crop's
_BASE = 299  # the draw that says which crop it is, where crops are counted
_RAND_BINS, _AUTO_BINS = 31, 10  # levels of magnitude, as in torchvision
_TOP = {
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateX": 150 / 331,
    "TranslateY": 150 / 331,
    "Rotate": 30.0,
    "Brightness": 0.9,
    "Color": 0.9,
    "Contrast": 0.9,
    "Sharpness": 0.9,
}
"""Largest magnitude of the operations that have a direction, which is drawn; of a translation in shares of the side."""
_RAND = ("Identity", *_TOP, "Posterize", "Solarize", "AutoContrast", "Equalize")


@dataclass(frozen=True, slots=True)
class RandAugment:
    """Some operations, each one of fourteen, all of one magnitude.

    Reference: Cubuk et al., RandAugment, NeurIPS 2020, with the operations and magnitudes of torchvision.
    """

    ops: int = 2
    """Operations one after the other."""
    magnitude: int = 9
    """From 0 to 30."""

    def __post_init__(self) -> None:
        if self.ops < 1:
            raise ValueError(
                f"randaugment.ops must be at least 1, got {self.ops}. Leave randaugment out for none"
            )
        if not 0 <= self.magnitude < _RAND_BINS:
            raise ValueError(f"randaugment.magnitude must be from 0 to 30, got {self.magnitude}. 9 is usual")

    def steps(self, number: Tensor, height: int, width: int) -> list[list[Step]]:
        """Returns the operations on every image, in order, from the numbers of their views ``(B,)``."""
        drawn = draws(number, 2 * self.ops, _FIRST).tolist()
        return [
            [
                _signed(
                    _RAND[int(row[2 * k] * len(_RAND))],
                    self.magnitude,
                    _RAND_BINS,
                    row[2 * k + 1],
                    height,
                    width,
                )
                for k in range(self.ops)
            ]
            for row in drawn
        ]


@dataclass(frozen=True, slots=True)
class AutoAugment:
    """One of 25 pairs of operations found by search, each done with a probability of its own.

    Reference: Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data, CVPR 2019, with the policies and
        magnitudes of torchvision.
    """

    policy: PolicyName = "imagenet"
    """The set it was found on."""

    def steps(self, number: Tensor, height: int, width: int) -> list[list[Step]]:
        """Returns the operations on every image, in order, from the numbers of their views ``(B,)``."""
        pairs = TorchvisionAutoAugment(AutoAugmentPolicy(self.policy)).policies
        chosen = []
        for first, *row in draws(number, 5, _FIRST).tolist():
            pair = pairs[int(first * len(pairs))]
            chosen.append(
                [
                    _signed(op, level, _AUTO_BINS, row[2 * k + 1], height, width)
                    for k, (op, probability, level) in enumerate(pair)
                    if row[2 * k] < probability
                ]
            )
        return chosen


@dataclass(frozen=True, slots=True)
class Policy(EndlessViews):
    """A crop, then operations on its pixels.

    The number of a view is drawn from ``(seed, epoch, index)``; crop, operations and their directions are drawn from
    the number (with ``fixed``, from image and number), so that a view can be made again, in any order. Pixels are
    rounded to uint8 before the operations, which are torchvision's, without interpolation and with black beyond the
    rim. Images of a batch to which the same is done go through it together.

    Example:
        >>> import torch
        >>> from understudy.data import PadCropFlip, Policy, RandAugment
        >>> augment = Policy(PadCropFlip(pad=4), RandAugment(ops=2, magnitude=9))
        >>> images, rows = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([1, 0])
        >>> view = augment.views(seed=0, epoch=3, index=rows)
        >>> augment.render(images, rows, view, torch.zeros(3), torch.ones(3)).shape
        torch.Size([2, 3, 32, 32])
    """

    base: Crop
    """The crop; its own views must not be fixed."""
    policy: RandAugment | AutoAugment
    fixed: int | None = None
    """Show only so many views of each image, drawn once and for all, so that a teacher's answers can be kept."""

    def __post_init__(self) -> None:
        self.check_fixed()

    def crop(self, images: Tensor, rows: Tensor, view: Tensor, place: Tensor | None = None) -> Tensor:
        """Returns one view each of some images, uint8; arguments as :meth:`PadCropFlip.crop` has them.

        Shape:
            images: ``(N, C, H, W)`` uint8; rows, view, place: ``(B,)``; output: ``(B, C, H, W)``.
        """
        number = own_number(self.fixed, view, rows if place is None else place)
        shown = number
        if self.base.finite:
            shown = integers(self.base.num_views, 0, Stream.VIEW, number, _BASE)
        batch = self.base.crop(images, rows, shown)
        if batch.is_floating_point():
            batch = batch.mul(255).round().to(torch.uint8)
        for members, (name, magnitude) in _together(self.policy.steps(number, *batch.shape[2:])):
            chosen = torch.tensor(members, device=batch.device)
            batch = batch.index_copy(0, chosen, _OPERATIONS[name](batch.index_select(0, chosen), magnitude))
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
        place: Tensor | None = None,
    ) -> Tensor:
        """Returns :meth:`crop`, normalised; arguments as :meth:`PadCropFlip.render` has them."""
        return normalise(self.crop(images, rows, view, place), mean, std, dtype, memory_format)


def _together(steps: list[list[Step]]) -> Iterator[tuple[list[int], Step]]:
    """Yields images of a batch to which the same is done next, all first operations before all second ones."""
    for k in range(max(map(len, steps), default=0)):
        groups: dict[Step, list[int]] = {}
        for i, own in enumerate(steps):
            if k < len(own) and own[k][0] != "Identity":
                groups.setdefault(own[k], []).append(i)
        yield from ((members, step) for step, members in groups.items())


def _signed(name: str, level: int | None, bins: int, draw: float, height: int, width: int) -> Step:
    """Returns an operation with its magnitude at a level, towards one side or, for half of the draws, the other."""
    if level is None or name in ("Identity", "AutoContrast", "Equalize", "Invert"):
        return name, 0.0
    if name == "Posterize":
        return name, float((8 - (torch.arange(bins) / ((bins - 1) / 4))).round()[level])
    if name == "Solarize":
        return name, float(torch.linspace(1.0, 0.0, bins)[level])
    top = _TOP[name] * {"TranslateX": width, "TranslateY": height}.get(name, 1)
    value = float(torch.linspace(0.0, top, bins)[level])
    return name, -value if draw < 0.5 else value


def _shear(images: Tensor, magnitude: float, axis: int) -> Tensor:
    angle = math.degrees(math.atan(magnitude))  # magnitudes are tangents
    shear = [angle, 0.0] if axis == 0 else [0.0, angle]
    return transforms.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])


def _translate(images: Tensor, magnitude: float, axis: int) -> Tensor:
    whole = float(int(magnitude))
    by = [whole, 0.0] if axis == 0 else [0.0, whole]
    return transforms.affine(images, angle=0.0, translate=by, scale=1.0, shear=[0.0, 0.0])


_OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "AutoContrast": lambda images, _: transforms.autocontrast(images),
    "Brightness": lambda images, by: transforms.adjust_brightness(images, 1 + by),
    "Color": lambda images, by: transforms.adjust_saturation(images, 1 + by),
    "Contrast": lambda images, by: transforms.adjust_contrast(images, 1 + by),
    "Equalize": lambda images, _: transforms.equalize(images),
    "Invert": lambda images, _: transforms.invert(images),
    "Posterize": lambda images, bits: transforms.posterize(images, int(bits)),
    "Rotate": lambda images, by: transforms.rotate(images, by),
    "Sharpness": lambda images, by: transforms.adjust_sharpness(images, 1 + by),
    "ShearX": partial(_shear, axis=0),
    "ShearY": partial(_shear, axis=1),
    "Solarize": lambda images, share: transforms.solarize(images, 255 * share),
    "TranslateX": partial(_translate, axis=0),
    "TranslateY": partial(_translate, axis=1),
}
"""Name -> what it does to uint8 images ``(B, C, H, W)`` at a magnitude."""

Augment: TypeAlias = Crop | Policy | ScaleCropFlip
"""What shows an image differently each time."""


def needs_whole(augment: Augment) -> bool:
    """Returns whether views are crops of whole images, which only images that are still encoded can give."""
    return _whole_crop(augment) is not None


def decoded(
    images: Undecoded, shown: Iterable[tuple[Tensor, Tensor]], augment: Augment, *, ahead: bool = True
) -> Iterator[Tensor]:
    """Yields the pixels ``(B, C, H, W)`` uint8 that an augmentation is to be given for some views.

    Args:
        images: the training images, still encoded.
        shown: positions ``(B,)`` of a batch and their views ``(B,)``.
        augment: of the views.
        ahead: whether workers decode; else this process.
    """
    crop = _whole_crop(augment)
    if crop is not None:
        assert isinstance(augment, ResizedCrop | Policy)
        host = ((rows.cpu(), view.cpu()) for rows, view in shown)
        numbers = ((rows, own_number(augment.fixed, view, rows)) for rows, view in host)
        return images.views(numbers, crop.boxes, ahead=ahead)
    if ahead:
        return images.batches(rows for rows, _ in shown)
    return (images.index_select(0, rows) for rows, _ in shown)


def of_squares(augment: Augment) -> Augment:
    """Returns the same views, but of the decoded centre squares where they are crops of whole images."""
    if isinstance(augment, Policy):
        return replace(augment, base=of_squares(augment.base))
    return replace(augment, whole=False) if isinstance(augment, ResizedCrop) else augment


def _whole_crop(augment: Augment) -> ResizedCrop | None:
    crop = augment.base if isinstance(augment, Policy) else augment
    return crop if isinstance(crop, ResizedCrop) and crop.whole else None
