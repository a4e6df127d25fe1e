"""Public sets by torchvision's readers, and the folder layout of ImageNet. Nothing is downloaded unless asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torchvision import datasets

from understudy.data.folder import read_folder
from understudy.data.images import ImageSet
from understudy.data.items import read_items
from understudy.data.undecoded import Resident
from understudy.words import first_line

PUBLIC: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "flowers102": (datasets.Flowers102, {"split": "train"}, {"split": "test"}),
    "food101": (datasets.Food101, {"split": "train"}, {"split": "test"}),
    "oxford_pets": (datasets.OxfordIIITPet, {"split": "trainval"}, {"split": "test"}),
    "stl10": (datasets.STL10, {"split": "train"}, {"split": "test"}),
}
"""Name -> torchvision's class, and its arguments for train and test."""


def read_public(
    name: str,
    root: str | Path = "~/data",
    download: bool = False,
    image_size: int | None = None,
    max_gib: float = 8.0,
    resize: int | None = None,
) -> tuple[ImageSet, ImageSet]:
    """Returns a public set, as torchvision keeps it on the disk.

    Args:
        name: key of :data:`PUBLIC`.
        root: folder that torchvision was given.
        download: fetch the files if they are not there.
        image_size: side in pixels that all images are scaled and cropped to.
        max_gib: memory the decoded images of one part may take, in GiB.
        resize: pixels that the shorter side is scaled to before the square is cut out; by default ``image_size``.

    Raises:
        ValueError: the files are missing or damaged, or cannot be fetched; the images differ in size or do not fit.
    """
    kind, *parts = PUBLIC[name]
    folder = Path(root).expanduser()
    try:
        train, test = (kind(str(folder), download=download, **part) for part in parts)
    except (RuntimeError, OSError) as error:
        reason = first_line(error)
        advice = (
            "Check the network and the folder"
            if download
            else "Set data.root to the folder that does, or data.download=true to fetch it"
        )
        raise ValueError(
            f"{folder} must hold {name} as torchvision keeps it, got: {reason} {advice}"
        ) from error
    classes = getattr(train, "classes", None)
    return (
        read_items(train, f"{name}/train", classes, image_size, 3, max_gib, resize=resize),
        read_items(test, f"{name}/test", classes, image_size, 3, max_gib, resize=resize),
    )


def read_imagenet(
    root: str | Path = "~/data/imagenet",
    image_size: int | None = 224,
    max_gib: float = 8.0,
    resident: Resident = "auto",
    workers: int | None = None,
    resize: int | None = None,
) -> tuple[ImageSet, ImageSet | None]:
    """Returns the images of a folder in ImageNet's layout: ``train/CLASS/*`` and ``val/CLASS/*``.

    ``val`` is what ImageNet is measured on, so it is the test set here. Published networks are measured on the centre
    224 of images scaled to 256 (``resize``).

    Raises:
        ValueError: as :func:`understudy.data.folder.read_folder`.
    """
    folder = Path(root).expanduser()
    test = folder / "val"
    test = test if test.is_dir() else None
    return read_folder(folder / "train", test, image_size, 3, max_gib, resident, workers, resize)


READERS: dict[str, Callable[..., tuple[ImageSet, ImageSet]]] = {
    name: partial(read_public, name) for name in PUBLIC
}
"""Name -> reader of a public set."""
