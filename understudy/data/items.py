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

from understudy.data.decode import Source
from understudy.data.images import ImageSet, numbered
from understudy.data.undecoded import Form, Resident, leave_encoded

_BLOCK = 256  # images held undecoded at once


def read_items(
    items: Any,
    name: str,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    channels: int = 3,
    max_gib: float = 8.0,
    resident: Resident = True,
    workers: int | None = None,
    resize: int | None = None,
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
        resident: whether they are decoded into memory; ``auto``: if they fit, or ``items.targets`` does not say the
            label of every item.
        workers: processes that decode them otherwise, by default one a processor.
        resize: pixels that the shorter side is scaled to before the square is cut out; by default ``image_size``.

    Raises:
        ValueError: an item is no such pair, a label no class number; an image cannot be read; sizes differ; the images
            do not fit, or are to stay where they are while nothing says their labels.
    """
    count, form = len(items), Form(image_size, channels, max_gib, resident, workers, resize)
    known = getattr(items, "targets", None)
    if known is not None and len(known) == count:
        known = list(known)  # a column of pandas may be numbered otherwise
        left = leave_encoded(_Items(items, known, name), name, form)
        if left is not None:
            labels = [_class_number(label, f"{name} item {i}") for i, label in enumerate(known)]
            return ImageSet.read(left, torch.tensor(labels), _class_names(items, classes, labels, name), name)
    elif resident is False:
        raise ValueError(
            f"{name} must have .targets, a class number for each of its {count} items, to be left undecoded, got none. "
            "Add it, or leave out data.resident"
        )
    stack = form.stack(name, count)
    targets: list[int] = []
    pairs = (_pair(items[i], f"{name} item {i}") for i in range(count))
    while block := list(islice(pairs, _BLOCK)):
        first = len(targets)
        stack.add([image for image, _ in block], lambda i, first=first: f"{name} item {first + i}")
        targets += [label for _, label in block]
    found = _class_names(items, classes, targets, name)
    return ImageSet.read(stack.images(), torch.tensor(targets), found, name)


def _class_names(items: Any, classes: Sequence[str] | None, targets: Sequence[int], name: str) -> list[str]:
    found = classes or getattr(items, "classes", None) or numbered(max(targets), name)
    return [str(c) for c in found]


class _Items:
    """Images of a collection, each asked for when it is needed; what labels it gives then must be those known."""

    def __init__(self, items: Any, labels: Sequence[Any], name: str) -> None:
        self._items, self._labels, self._name = items, labels, name

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, position: int) -> Source:
        image, label = _pair(self._items[position], self.name(position))
        known = _class_number(self._labels[position], self.name(position))
        if label != known:
            raise ValueError(
                f"{self.name(position)} must have the label that .targets says, {known}, got {label}. "
                "Make them agree, or set data.resident=true"
            )
        return image

    def name(self, position: int) -> str:
        return f"{self._name} item {position}"


def read_python(
    name: str,
    image_size: int | None = None,
    channels: int = 3,
    max_gib: float = 8.0,
    resident: Resident = "auto",
    workers: int | None = None,
    resize: int | None = None,
    **options: Any,
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
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
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
    form = (image_size, channels, max_gib, resident, workers, resize)
    train = read_items(parts[0], f"{name}/train", classes, *form)
    if parts[1] is None:
        return train, None
    theirs = getattr(parts[1], "classes", None)
    if classes is not None and theirs is not None and tuple(map(str, theirs)) != train.classes:
        raise ValueError(
            f"train and test of {name} must have the same .classes, got others, so that labels would mean others. "
            "Number the classes of both alike"
        )
    return train, read_items(parts[1], f"{name}/test", train.classes, *form)


def _pair(item: Any, where: str) -> tuple[Source, int]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ValueError(
            f"{where} must be a pair (image, label), got {type(item).__name__}. Return two values"
        )
    image, label = item
    return _source(image, where), _class_number(label, where)


def _class_number(label: Any, where: str) -> int:
    if isinstance(label, (Tensor, np.generic)):
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int):
        raise ValueError(f"{where} must have a class number for a label, got {label!r}. Return an int")
    return label


def _source(image: Any, where: str) -> Source:
    if isinstance(image, Tensor) and image.dim() == 3:
        image = image.permute(1, 2, 0).numpy()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise ValueError(
                f"{where} must hold pixels from 0 to 255 as uint8, got {image.dtype}. Leave out ToTensor"
            )
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
            raise ValueError(
                f"{where} must be a tensor (C, H, W) or an array (H, W, C) of 1, 3 or 4 channels, got (height, width, "
                f"channels) {image.shape}. Move the channels"
            )
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if isinstance(image, str):
        return Path(image).expanduser()
    if isinstance(image, (Image.Image, bytes, Path)):
        return image
    raise ValueError(
        f"{where} must be an image of Pillow, a tensor (C, H, W), an array, bytes or a path, got "
        f"{type(image).__name__}{f' {tuple(image.shape)}' if isinstance(image, Tensor) else ''}. Return one of these"
    )
