"""Labelled images as tensors, the views of each, and the loaders that stream both."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from understudy.data.boxes import BoxSet
from understudy.data.cifar import read_cifar10, read_cifar100
from understudy.data.coco import read_coco
from understudy.data.digits import read_digits
from understudy.data.folder import read_folder
from understudy.data.hugging_face import read_hugging_face
from understudy.data.images import ImageSet
from understudy.data.items import read_python
from understudy.data.loader import EvalLoader, TrainLoader
from understudy.data.manifest import read_manifest
from understudy.data.masks import MaskSet
from understudy.data.multilabel import MultiLabelSet
from understudy.data.normalisation import PUBLISHED, normalise, pixel_statistics
from understudy.data.parquet import read_parquet
from understudy.data.policy import Augment, AutoAugment, Policy, RandAugment
from understudy.data.public import READERS, read_imagenet
from understudy.data.scale_crop import ScaleCropFlip
from understudy.data.segmentation import read_cityscapes, read_mask_folder, read_voc
from understudy.data.splits import Splits, check_statistics, hold_out, keep
from understudy.data.views import NO_AUGMENT, PadCropFlip, ResizedCrop

__all__ = [
    "DATASETS",
    "NO_AUGMENT",
    "Augment",
    "AutoAugment",
    "BoxSet",
    "EvalLoader",
    "ImageSet",
    "MaskSet",
    "MultiLabelSet",
    "PadCropFlip",
    "Policy",
    "RandAugment",
    "ResizedCrop",
    "ScaleCropFlip",
    "Splits",
    "TrainLoader",
    "load",
    "normalise",
]

DATASETS: Mapping[str, Callable[..., tuple[ImageSet, ImageSet | None]]] = {
    "camvid": read_mask_folder,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "cityscapes": read_cityscapes,
    "coco": read_coco,
    "digits": read_digits,
    "flowers102": READERS["flowers102"],
    "food101": READERS["food101"],
    "hf": read_hugging_face,
    "imagefolder": read_folder,
    "imagenet": read_imagenet,
    "manifest": read_manifest,
    "maskfolder": read_mask_folder,
    "oxford_pets": READERS["oxford_pets"],
    "parquet": read_parquet,
    "stl10": READERS["stl10"],
    "voc": read_voc,
}
"""Name -> reader of ``(train, test)``. The reader's arguments are the options of the data set."""

_STATISTICS = 10_000  # images, evenly spread, that speak for a set that is not in memory


_OBLONG = ("camvid", "cityscapes", "coco", "maskfolder", "voc")
"""Sets with a class for every pixel, or with boxes, whose images need not be squares."""


def load(
    name: str,
    *,
    val: float = 0.0,
    limit: int | None = None,
    split_seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> Splits:
    """Returns a data set, read, checked and split, on the CPU.

    Args:
        name: key of :data:`DATASETS`, or ``package.module:function`` (:func:`understudy.data.items.read_python`).
        val: share of the training images that is held out for choices, every class in proportion.
        limit: train on this many images only (of those not held out), as many of every class.
        split_seed: of the choices that ``val`` and ``limit`` make. Not the run's seed: seeds are compared on
            one split.
        mean: of every channel, 0 to 1, for example those a pre-trained teacher was made with; goes with
            ``std``. Default: the published ones for CIFAR, for other sets those of all training images as
            read (of 10,000, evenly spread, if they are not held in memory), so that ``val`` and ``limit`` change
            nothing in what a network sees.
        std: likewise.
        options: of the data set: the arguments of its reader. ``resident`` and ``workers`` of readers that always
            decode into memory may say so, and are left out.

    Raises:
        ValueError: an unknown name or option (with the nearest known one), a missing option, or whatever is
            wrong with the data.

    Example:
        >>> from understudy.data import load
        >>> splits = load("digits", val=0.1)
        >>> len(splits.train), len(splits.val), len(splits.test)
        (1167, 130, 500)
    """
    if ":" not in name and name not in DATASETS:
        raise ValueError(
            f"data.name must be one of {', '.join(DATASETS)} or package.module:function, got {name!r}. "
            f"{_nearest(name, DATASETS)}"
        )
    reader = partial(read_python, name) if ":" in name else DATASETS[name]
    without_test = options.get("test") is False
    if without_test:
        takes = ":" not in name and "test" in inspect.signature(reader).parameters
        own = (
            {"test": False if name == "hf" else None} if takes else {}
        )  # there None is any that can be found
        options = {key: value for key, value in options.items() if key != "test"} | own
    if ":" not in name:
        options = _check_options(name, options)
    if isinstance(options.get("image_size"), Sequence) and name not in _OBLONG:
        raise ValueError(
            f"data.image_size must be one number for {name}, got {options['image_size']}. Images of classes are squares"
        )
    read, test = reader(**options)
    test = None if without_test else test
    # images with masks or boxes are measured at a size of their own
    whole = not isinstance(read, MaskSet | BoxSet)
    if test is not None and whole and test.image_size != read.image_size:
        raise ValueError(
            f"training and test images must have one size, got {_size(read)} and {_size(test)}. Set data.image_size"
        )
    if read.num_classes < 2 and not isinstance(read, BoxSet):  # which has the background besides
        raise ValueError(
            f"{read.name} must have two classes or more, got only {read.classes[0]!r}. Add images of another class"
        )
    if (mean is None) != (std is None):
        raise ValueError("data.mean and data.std must be given together, got one of them. Add the other")
    if mean is None or std is None:
        mean, std = PUBLISHED.get(name) or pixel_statistics(_sample(read))
    check_statistics(mean, std, read.channels)
    train, held = hold_out(read, val, split_seed)
    return Splits(keep(train, limit, split_seed), held, test, tuple(mean), tuple(std))


def _size(images: ImageSet) -> str:
    return "×".join(map(str, images.image_size))


def _sample(images: ImageSet) -> Tensor | Iterable[Tensor]:
    """Returns the images that mean and deviation are computed from: all in memory, or an even sample of others."""
    if isinstance(images.images, Tensor):
        return images.images
    count = min(len(images), _STATISTICS)
    return images.images.batches((torch.arange(count) * len(images) // count).split(64))


def _check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that a reader takes; those that say what holds for it anyway are left out."""
    own = inspect.signature(DATASETS[name]).parameters
    common = [p for p, kind in inspect.signature(load).parameters.items() if kind.kind is kind.KEYWORD_ONLY]
    known = (*own, *common)
    if "resident" not in own:
        if options.get("resident") is False:
            raise ValueError(
                f"data set {name!r} must be held in memory, got data.resident=false or data.augment.whole. Leave that "
                "out, or write the images into folders and use imagefolder"
            )
        options = {key: value for key, value in options.items() if key not in ("resident", "workers")}
    for option in options:
        if option not in own:
            raise ValueError(
                f"options of data set {name!r} must be among {', '.join(known)}, got {option!r}. "
                f"{_nearest(option, known)}"
            )
    for option in ("train", "test"):
        value = options.get(option)
        if isinstance(value, list | tuple) and (name != "parquet" or not value):
            raise ValueError(
                f"data.{option} must be one path, for parquet also a list of some, got {value!r} for {name}. Correct it"
            )
    for option, kind in own.items():
        if kind.default is kind.empty and option not in options:
            raise ValueError(f"data set {name!r} must have the option data.{option}, got none. Add it")
    return dict(options)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else "Choose one of these"
