"""From encoded images (files or bytes) to uint8 pixels of one size."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

_THREADS = 2  # Pillow decodes outside the GIL; two keep a small machine busy without crowding it
_CHUNK = 64  # images a task: small enough to stop soon after a failure
_GIB = 2**30

Source: TypeAlias = bytes | Path | Image.Image
"""An image: the bytes of a file, its path, or one of Pillow's."""


_FIRST_OF_SEVERAL = ("MPO", "TIFF")
"""Formats whose further pictures are previews, depths or pages, not moments: the first one is the image."""


Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, the last two excluded."""


def decode(
    source: Source,
    size: int | None = None,
    channels: int = 3,
    resize: int | None = None,
    crop: Callable[[int, int], Box] | None = None,
) -> NDArray[np.uint8]:
    """Returns one image as ``(C, H, W)`` uint8 pixels, upright.

    16-bit grey is scaled to 8 bits (Pillow's own conversion clips it), an alpha channel is dropped as
    torchvision's loader does, colour becomes grey by the weights of ITU-R 601, and the camera's orientation
    tag is obeyed.

    Args:
        source: the encoded file's bytes, its path, or an image of Pillow.
        size: side of the square that is cut out of the centre; ``None`` keeps the image as it is.
        channels: 1 for grey, 3 for colour.
        resize: pixels that the shorter side is scaled to before (bilinear, antialiased); by default ``size``.
        crop: given height and width of the image as it is in its file, returns the box that is scaled to ``size``
            instead.

    Raises:
        ValueError: the image cannot be read. The message gives the reason only: the caller knows the name.
    """
    try:
        with _opened(source) as opened:
            if getattr(opened, "n_frames", 1) > 1 and opened.format not in _FIRST_OF_SEVERAL:
                raise ValueError(f"an animation of {opened.n_frames} frames, not one image")
            image = _eight_bits(_upright(opened)).convert("RGB" if channels == 3 else "L")
    except UnidentifiedImageError:
        raise ValueError("no known image format") from None
    except Exception as error:  # a damaged file makes Pillow raise whatever its decoder stumbles over
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from error
    assert crop is None or size is not None
    if size is not None and crop is not None:
        image = image.crop(crop(image.height, image.width)).resize((size, size), Image.Resampling.BILINEAR)
    elif size is not None:
        image = _resize_and_crop(image, size, size if resize is None else resize)
    pixels = np.asarray(image).reshape(image.height, image.width, channels)
    return np.array(pixels.transpose(2, 0, 1), order="C")  # a copy: Pillow's own memory is read-only


def _opened(source: Source) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.copy()
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _upright(image: Image.Image) -> Image.Image:
    """Returns an image turned as the camera was held; a damaged tag beside whole pixels says nothing."""
    image.load()  # damaged pixels are an error; and Pillow turns a TIFF as it loads it
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises whatever its reader stumbles over
        turn = None
    return image if turn is None else image.transpose(turn)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what undoes it."""


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("32-bit floating-point images are not supported")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values beyond 16 bits are not supported")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # rounded; 257 = 65535 / 255
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # straight to RGB, Pillow warns
    return image


def _resize_and_crop(image: Image.Image, size: int, resize: int) -> Image.Image:
    width, height = image.size
    if width <= height:
        width, height = resize, int(resize * height / width)
    else:
        width, height = int(resize * width / height), resize
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)  # as torchvision's center_crop rounds
    return image.crop((left, top, left + size, top + size))


class Stack:
    """Decodes a known number of images, block after block, into one ``(N, C, H, W)`` uint8 tensor."""

    def __init__(
        self,
        name: str,
        count: int,
        *,
        image_size: int | None = None,
        channels: int = 3,
        max_gib: float = 8.0,
        resize: int | None = None,
    ) -> None:
        """Prepares for ``count`` images; memory is taken when the first one shows its size.

        Args:
            name: where the images come from, for messages.
            count: number of images that will be added.
            image_size: side of the square images in pixels; ``None``: as they are, all of one size.
            channels: 1 for grey, 3 for colour.
            max_gib: the decoded images may take this much memory, in GiB.
            resize: as in :func:`decode`.

        Raises:
            ValueError: a number is out of range, ``count`` is 0, or squares of ``image_size`` exceed
                ``max_gib``.
        """
        check_form(name, count, image_size, channels, resize)
        self._name, self._count, self._max_gib = name, count, max_gib
        self._size, self._channels, self._resize = image_size, channels, resize
        self._pixels: NDArray[np.uint8] | None = None
        self._filled = 0
        if image_size is not None:
            self._pixels = self._room(image_size, image_size)

    def _room(self, height: int, width: int) -> NDArray[np.uint8]:
        shape = (self._count, self._channels, height, width)
        needed = float(np.prod(shape, dtype=np.float64)) / _GIB
        if needed > self._max_gib:
            raise ValueError(
                f"{self._name} must fit in data.max_gib = {self._max_gib:g} GiB of memory, got "
                f"{needed:.2f} GiB ({shape[0]:,} images of {shape[1]} x {height} x {width}). "
                "Lower data.image_size or raise data.max_gib"
            )
        return np.empty(shape, dtype=np.uint8)

    def add(self, sources: Sequence[Source], where: Callable[[int], str]) -> None:
        """Decodes the next images.

        Args:
            sources: as :func:`decode` takes them.
            where: names the image at a position of ``sources``, for messages.

        Raises:
            ValueError: an image cannot be read or has another size than the first; the first such image is
                named.
        """
        if self._pixels is None and sources:
            _, height, width = decode_named(sources[0], where(0), None, self._channels).shape
            self._pixels = self._room(height, width)
        first = self._filled
        self._filled += len(sources)
        with ThreadPoolExecutor(_THREADS) as pool:
            chunks = (range(i, min(i + _CHUNK, len(sources))) for i in range(0, len(sources), _CHUNK))
            for _ in pool.map(lambda chunk: self._fill(chunk, first, sources, where), chunks):
                pass  # results come in order: the first failure is the one raised

    def _fill(self, chunk: range, first: int, sources: Sequence[Source], where: Callable[[int], str]) -> None:
        assert self._pixels is not None
        height, width = self._pixels.shape[2:]
        for i in chunk:
            image = decode_named(sources[i], where(i), self._size, self._channels, self._resize)
            if image.shape[1:] != (height, width):
                raise ValueError(
                    f"all images must have one size, got {width} x {height} pixels first and "
                    f"{image.shape[2]} x {image.shape[1]} in {where(i)}. "
                    "Set data.image_size to scale and crop all to one square"
                )
            self._pixels[first + i] = image

    def images(self) -> Tensor:
        """Returns what was added, ``(N, C, H, W)`` uint8."""
        assert self._pixels is not None
        assert self._filled == self._count
        return torch.from_numpy(self._pixels)


def check_some(name: str, count: int) -> None:
    """Checks that a set has images.

    Raises:
        ValueError: there is none.
    """
    if count == 0:
        raise ValueError(f"{name} must hold at least one image, got none. Check the path and its contents")


def check_form(
    name: str, count: int, image_size: int | None, channels: int, resize: int | None = None
) -> None:
    """Checks how images are to be decoded.

    Raises:
        ValueError: a number is out of range, or there is no image.
    """
    check_some(name, count)
    if channels not in (1, 3):
        raise ValueError(f"data.channels must be 1 or 3, got {channels}. Choose grey or colour")
    if image_size is not None and image_size < 1:
        raise ValueError(
            f"data.image_size must be at least 1 pixel, got {image_size}. Typical values are 32 and 224"
        )
    if resize is not None and (image_size is None or resize < image_size):
        raise ValueError(
            f"data.resize must be at least data.image_size, which is cut out of it, got {resize} with "
            f"{'none' if image_size is None else image_size}. 256 and 224 are usual"
        )


def decode_named(
    source: Source,
    where: str,
    size: int | None,
    channels: int,
    resize: int | None = None,
    crop: Callable[[int, int], Box] | None = None,
) -> NDArray[np.uint8]:
    """Returns :func:`decode`; what is wrong with the image is said with its name.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return decode(source, size, channels, resize, crop)
    except ValueError as error:
        raise ValueError(
            f"{where} must be an image that can be read, got one that cannot ({error}). "
            "Replace it or take it out"
        ) from error
