"""Any indexed collection of (image, label) pairs: torchvision's sets, a Python ``Dataset`` of one's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from understudy.data.decode import Source, Stack
from understudy.data.images import ImageSet

_BLOCK = 256  # images held undecoded at once


def read_items(
    items: Any,
    name: str,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    channels: int = 3,
    max_gib: float = 8.0,
) -> ImageSet:
    """Returns the images of an indexed collection.

    Args:
        items: has ``len`` and gives ``(image, label)`` by position; an image is one of Pillow's, a uint8 tensor
            ``(C, H, W)``, a uint8 array ``(H, W, C)`` or ``(H, W)``, the bytes of a file, or its path. Labels are class
            numbers.
        name: for messages.
        classes: their names; by default ``items.classes``, else the numbers.
        image_size: side in pixels that all images are scaled and cropped to; ``None``: all must have one size.
        channels: 1 for grey, 3 for colour.
        max_gib: memory the decoded images may take, in GiB.

    Raises:
        ValueError: an item is no such pair, a label no class number; an image cannot be read; sizes differ; the images
            do not fit.
    """
    count = len(items)
    stack = Stack(name, count, image_size=image_size, channels=channels, max_gib=max_gib)
    targets: list[int] = []
    pairs = (_pair(items[i], f"{name} item {i}") for i in range(count))
    while block := list(islice(pairs, _BLOCK)):
        first = len(targets)
        stack.add([image for image, _ in block], lambda i, first=first: f"{name} item {first + i}")
        targets += [label for _, label in block]
    found = classes or getattr(items, "classes", None) or [str(c) for c in range(max(targets) + 1)]
    return ImageSet.read(stack.images(), torch.tensor(targets), [str(c) for c in found], name)


def read_python(
    name: str, image_size: int | None = None, channels: int = 3, max_gib: float = 8.0, **options: Any
) -> tuple[ImageSet, ImageSet | None]:
    """Returns the images of a function of the user's, ``package.module:function``.

    The function returns a collection as :func:`read_items` takes it, or a pair of them: train and test.

    Raises:
        ValueError: it cannot be imported or called, or returns something else.
    """
    module, _, attribute = name.partition(":")
    try:
        made: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        found = made(**options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"data.name {name} must be a function that can be called, got: {error}. Check module and function"
        ) from error
    parts = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not all(part is None or hasattr(part, "__len__") for part in parts) or parts[0] is None:
        raise ValueError(
            f"{name} must return a collection with a length, or a pair of them, got {type(found).__name__}. "
            "Return (train, test)"
        )
    classes = getattr(parts[0], "classes", None)
    train = read_items(parts[0], f"{name}/train", classes, image_size, channels, max_gib)
    if parts[1] is None:
        return train, None
    return train, read_items(parts[1], f"{name}/test", train.classes, image_size, channels, max_gib)


def _pair(item: Any, where: str) -> tuple[Source, int]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ValueError(
            f"{where} must be a pair (image, label), got {type(item).__name__}. Return two values"
        )
    image, label = item
    if isinstance(label, (Tensor, np.generic)):
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int):
        raise ValueError(f"{where} must have a class number for a label, got {label!r}. Return an int")
    return _source(image, where), label


def _source(image: Any, where: str) -> Source:
    if isinstance(image, Tensor) and image.dim() == 3:
        image = image.permute(1, 2, 0).numpy()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise ValueError(
                f"{where} must hold pixels from 0 to 255 as uint8, got {image.dtype}. Leave out ToTensor"
            )
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if isinstance(image, str):
        return Path(image).expanduser()
    if isinstance(image, (Image.Image, bytes, Path)):
        return image
    raise ValueError(
        f"{where} must be an image of Pillow, a tensor, an array, bytes or a path, got {type(image).__name__}"
    )
