"""Images with a class for every pixel, as tensors, and how files of both are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from understudy.data.decode import check_some, decode
from understudy.data.images import ImageSet
from understudy.interface import IGNORE

_THREADS = 2  # as in understudy.data.decode
_GIB = 2**30


@dataclass(frozen=True, slots=True, eq=False)
class MaskSet(ImageSet):
    """Images of one size with a mask each. ``targets`` is ``(N, H, W)`` uint8: a class number, or ``IGNORE``."""

    def check(self, *, unlabelled: bool = False) -> MaskSet:
        """Returns the set itself if it can be trained on or measured.

        Raises:
            ValueError: there is no image, a mask has another size, or a pixel's value is no class number.
        """
        del unlabelled
        check_some(self.name, len(self))
        if self.targets.shape != (len(self), *self.image_size) or self.targets.dtype != torch.uint8:
            raise ValueError(
                f"masks of {self.name} must be uint8 of the images' size, got {self.targets.dtype} "
                f"{tuple(self.targets.shape)} for images {tuple(self.images.shape)}. Scale both alike"
            )
        if self.num_classes > IGNORE:
            raise ValueError(
                f"{self.name} must have at most {IGNORE} classes, got {self.num_classes}: {IGNORE} means ignored. "
                "Merge some"
            )
        return self

    @property
    def pixels_by_class(self) -> Tensor:
        """How many pixels each class has, ``(C,)`` int64."""
        counts = torch.zeros(IGNORE + 1, dtype=torch.int64)
        for mask in self.targets.cpu():
            counts += mask.flatten().bincount(minlength=IGNORE + 1)
        return counts[: self.num_classes]


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of one image and of its mask."""

    image: Path
    mask: Path


def read_pairs(
    pairs: Sequence[Pair],
    classes: Sequence[str],
    name: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    max_gib: float = 8.0,
    numbers: Mapping[int, int] | None = None,
) -> MaskSet:
    """Returns the images and masks of files.

    Args:
        pairs: the files, in the order of the set.
        classes: names; a mask's values are their positions.
        name: where they come from, for messages.
        image_size: height and width (one number: both) that all are scaled to fit into, image bilinear and mask
            nearest; what is left over is black and ignored. ``None``: as they are, all of one size.
        max_gib: memory that images and masks may take, in GiB.
        numbers: value in a file -> class number, where they differ; all other values are ignored.

    Raises:
        ValueError: a file cannot be read, a mask is no table of class numbers or has another size than its image, the
            images differ in size, or they take too much memory. The file is named.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_some(name, len(pairs))
    height, width = size or _read_image(pairs[0].image).shape[1:]
    needed = len(pairs) * height * width * 4 / _GIB
    if needed > max_gib:
        raise ValueError(
            f"{name} must fit in data.max_gib = {max_gib:g} GiB of memory, got {needed:.2f} GiB ({len(pairs):,} images "
            f"of 3 x {height} x {width} and their masks). Lower data.image_size or raise data.max_gib"
        )
    images = np.zeros((len(pairs), 3, height, width), dtype=np.uint8)
    masks = np.full((len(pairs), height, width), IGNORE, dtype=np.uint8)
    table = _translation(len(classes), numbers)

    def fill(i: int) -> None:
        image, mask = _read_both(pairs[i])
        if size is not None:
            image, mask = _fitted(image, mask, size)
        if size is None and mask.shape != (height, width):
            raise ValueError(
                f"all images must have one size, got {width} x {height} pixels first and {mask.shape[1]} x "
                f"{mask.shape[0]} in {pairs[i].image}. Set data.image_size=[HEIGHT,WIDTH] to scale all"
            )
        translated = table[mask]
        if (translated < 0).any():
            wrong = int(mask[translated < 0][0])
            raise ValueError(
                f"{pairs[i].mask} must hold class numbers below {len(classes)}, or {IGNORE} for what is ignored, got "
                f"{wrong}. Correct the mask or the list of classes"
            )
        images[i, :, : image.shape[1], : image.shape[2]] = image
        masks[i, : mask.shape[0], : mask.shape[1]] = translated

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(fill, range(len(pairs))):
            pass  # results come in order: the first failure is the one raised
    read = MaskSet.read(torch.from_numpy(images), torch.from_numpy(masks), classes, name)
    assert isinstance(read, MaskSet)
    return read


def _translation(num_classes: int, numbers: Mapping[int, int] | None) -> NDArray[np.int16]:
    """Returns value in a file -> class number, -1 for a value that must not be there."""
    table = np.full(256, -1 if numbers is None else IGNORE, dtype=np.int16)
    given = {k: k for k in range(min(num_classes, IGNORE))} if numbers is None else numbers
    for value, number in given.items():
        table[value] = number
    table[IGNORE] = IGNORE
    return table


def _read_both(pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if not pair.mask.is_file():
        raise ValueError(
            f"every image must have a mask, got {pair.image} without {pair.mask}. Add the mask or take the image out"
        )
    image, mask = _read_image(pair.image), _read_mask(pair.mask)
    if mask.shape != image.shape[1:]:
        raise ValueError(
            f"a mask must have the size of its image, got {mask.shape[1]} x {mask.shape[0]} pixels in {pair.mask} and "
            f"{image.shape[2]} x {image.shape[1]} in {pair.image}. Make the mask anew"
        )
    return image, mask


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        return decode(path)
    except ValueError as error:
        raise ValueError(
            f"{path} must be an image that can be read, got one that cannot ({error}). Replace it or take it out"
        ) from error


def _read_mask(path: Path) -> NDArray[np.uint8]:
    """Returns the numbers in a file, ``(H, W)``: grey levels, or the entries of a palette, not its colours."""
    try:
        with Image.open(path) as opened:
            kind, values = opened.mode, np.asarray(opened)
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} must be a mask that can be read, got no known image format. Replace it"
        ) from None
    except Exception as error:  # a damaged file makes Pillow raise whatever its decoder stumbles over
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} must be a mask that can be read, got one that cannot ({reason}). Replace it"
        ) from error
    if values.ndim != 2:
        raise ValueError(
            f"{path} must hold one class number a pixel, got colours ({kind}). Save masks as grey or palette PNG"
        )
    if values.dtype != np.uint8 and (values.min() < 0 or values.max() > IGNORE):
        raise ValueError(
            f"{path} must hold numbers from 0 to {IGNORE}, got {int(values.min())} to {int(values.max())}. Correct it"
        )
    return values.astype(np.uint8)


def _fitted(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns image and mask scaled to fit into a size, their shape kept."""
    image = fit_image(image, size)
    height, width = image.shape[1:]
    if mask.shape == (height, width):
        return image, mask
    return image, np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def fit_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns an image ``(C, H, W)`` scaled (bilinear, antialiased) to fit into a size, its shape kept."""
    channels, height, width = image.shape
    scale = min(size[0] / height, size[1] / width)
    to = (min(size[1], max(1, round(width * scale))), min(size[0], max(1, round(height * scale))))
    if to == (width, height):
        return image
    picture = Image.fromarray(image.transpose(1, 2, 0) if channels == 3 else image[0])
    return (
        np.asarray(picture.resize(to, Image.Resampling.BILINEAR))
        .reshape(to[1], to[0], channels)
        .transpose(2, 0, 1)
    )
