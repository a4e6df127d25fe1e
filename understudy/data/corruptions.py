"""Images spoiled on purpose: noise, blur, low contrast and JPEG at five levels, always the same ones."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from understudy.data.counter import Stream, uniform
from understudy.data.images import ImageSet

LEVELS = (1, 2, 3, 4, 5)

_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviation, in shares of the full range."""
_BLUR = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Standard deviation in pixels at 32 pixels a side; it grows with the root of the side."""
_CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
"""What is left of each pixel's distance from its channel's mean."""
_JPEG = (80, 50, 25, 15, 7)
"""Quality."""
_BLOCK = 256  # images at once: noise needs a few float64 numbers a pixel


def corrupt(images: Tensor, kind: str, level: int, *, index: Tensor, seed: int = 0) -> Tensor:
    """Returns spoiled images; each depends on its own pixels, ``(seed, index)``, kind and level alone.

    The noise of an image is one pattern, scaled by the level, so that levels compare image by image. Order, batch
    size and device change nothing (JPEG: with one version of the codec).

    Args:
        images: pixels, uint8.
        kind: one of ``CORRUPTIONS``.
        level: 1 (mild) to 5 (severe).
        index: position of every image in its set as read, int64.
        seed: of the noise.

    Raises:
        ValueError: ``kind`` or ``level`` is unknown, or the images are not uint8 of 1 or 3 channels.

    Shape:
        images and output: ``(N, C, H, W)``; index: ``(N,)``.

    Reference: the kinds are four of the nineteen of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to
        Common Corruptions and Perturbations, ICLR 2019. The images are ours, and so are most levels: numbers do not
        compare with those on their files.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"kind must be one of {', '.join(CORRUPTIONS)}, got {kind!r}. Choose one of them")
    if level not in LEVELS:
        raise ValueError(f"level must be from 1 to 5, got {level}. 1 is mild, 5 severe")
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must be uint8 of shape (N, 1 or 3, H, W), got {images.dtype} of {tuple(images.shape)}. "
            "Corrupt pixels, before they are normalised"
        )
    spoil = CORRUPTIONS[kind]
    blocks = zip(images.split(_BLOCK), index.split(_BLOCK), strict=True)
    return torch.cat([spoil(block, level - 1, numbers, seed) for block, numbers in blocks])


def corrupted(images: ImageSet, kind: str, level: int, seed: int = 0) -> ImageSet:
    """Returns a set with spoiled images, everything else as it was."""
    return replace(images, images=corrupt(images.in_memory(), kind, level, index=images.index, seed=seed))


def _noise(images: Tensor, level: int, index: Tensor, seed: int) -> Tensor:
    n, *shape = images.shape
    pixel = torch.arange(math.prod(shape), device=images.device)
    first, second = (
        uniform(seed, Stream.CORRUPTION, index.to(images.device)[:, None], 2 * pixel + i) for i in (0, 1)
    )
    normal = (-2 * (1 - first).log()).sqrt() * (2 * math.pi * second).cos()  # Box and Muller, 1958
    return _as_pixels(images + 255 * _NOISE[level] * normal.reshape(n, *shape))


def _blur(images: Tensor, level: int, index: Tensor, seed: int) -> Tensor:
    del index, seed
    side = min(images.shape[2:])
    sigma = _BLUR[level] * math.sqrt(side / 32)
    reach = min(math.ceil(3 * sigma), side - 1)  # the padding mirrors the image once
    if reach < 1:
        return images
    return _as_pixels(
        transforms.gaussian_blur_image(images.double(), [2 * reach + 1, 2 * reach + 1], [sigma, sigma])
    )


def _contrast(images: Tensor, level: int, index: Tensor, seed: int) -> Tensor:
    del index, seed
    mean = images.double().mean(dim=(2, 3), keepdim=True)
    return _as_pixels(mean + _CONTRAST[level] * (images - mean))


def _jpeg(images: Tensor, level: int, index: Tensor, seed: int) -> Tensor:
    del index, seed
    spoiled = []
    for image in images.cpu().numpy():
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="JPEG", quality=_JPEG[level])
        back = np.asarray(Image.open(file))
        spoiled.append(back[None] if back.ndim == 2 else back.transpose(2, 0, 1))
    return torch.from_numpy(np.stack(spoiled)).to(images.device)


def _as_pixels(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


CORRUPTIONS: dict[str, Callable[[Tensor, int, Tensor, int], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "jpeg": _jpeg,
}
