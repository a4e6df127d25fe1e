"""Folders of images, one folder a class."""

from __future__ import annotations

from pathlib import Path

import torch

from understudy.data.images import ImageSet
from understudy.data.undecoded import Files, Form, Resident, read_images

_EXTENSIONS = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))


def read_folder(
    train: str | Path,
    test: str | Path | None = None,
    image_size: int | None = None,
    channels: int = 3,
    max_gib: float = 8.0,
    resident: Resident = "auto",
    workers: int | None = None,
    resize: int | None = None,
) -> tuple[ImageSet, ImageSet | None]:
    """Returns the images of ``DIR/CLASS/**/*.{png,jpg,...}``.

    Classes are numbered in sorted order of their names, as by torchvision's ``ImageFolder``. Hidden files and
    folders are passed over.

    Args:
        train: folder with one folder a class.
        test: likewise; its classes must be among those of ``train``.
        image_size: side in pixels that all images are scaled and cropped to; ``None``: all must have one
            size.
        channels: 1 for grey, 3 for colour.
        max_gib: memory the decoded images of one folder may take, in GiB.
        resident: whether they are decoded into memory; ``auto``: if they fit.
        workers: processes that decode them otherwise, by default one a processor.
        resize: pixels that the shorter side is scaled to before the square is cut out; by default ``image_size``.

    Raises:
        ValueError: a folder is missing, is given twice, holds no class, or a class without images;
            ``test`` has a class of its own; an image cannot be read; sizes differ; the images do not fit.
    """
    folders = {"train": Path(train).expanduser()}
    if test is not None:
        folders["test"] = Path(test).expanduser()
        one, other = (folder.resolve() for folder in folders.values())
        if one == other:
            raise ValueError(f"data.train and data.test must be two folders, got {train} for both. Divide it")
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise ValueError(
                f"data.train and data.test must lie beside each other, got {train} and {test}, one within the other, "
                "where its images would be a class. Move one of them"
            )
    found = {option: _classes(folder, option) for option, folder in folders.items()}
    numbers = {name: number for number, name in enumerate(found["train"])}
    extra = next((name for name in found.get("test", {}) if name not in numbers), None)
    if extra is not None:
        raise ValueError(
            f"classes of data.test must be among those of data.train, got {extra!r} in {test} besides. "
            "Rename or remove that folder"
        )
    sets, form = {}, Form(image_size, channels, max_gib, resident, workers, resize)
    for option, folder in folders.items():
        paths = [path for images in found[option].values() for path in images]
        targets = [numbers[name] for name, images in found[option].items() for _ in images]
        images = read_images(Files(paths), str(folder), form)
        sets[option] = ImageSet.read(images, torch.tensor(targets), tuple(numbers), str(folder))
    return sets["train"], sets.get("test")


def _classes(folder: Path, option: str) -> dict[str, list[Path]]:
    """Returns the images of every class, both sorted."""
    if not folder.is_dir():
        raise ValueError(f"data.{option} must be a folder, got {folder}, which is none. Check the path")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise ValueError(
            f"{folder} must hold one folder a class, got none. Sort the images into such folders"
        )
    found = {name: _images(folder / name) for name in names}
    empty = next((name for name, images in found.items() if not images), None)
    if empty is not None:
        raise ValueError(
            f"{folder / empty} must hold images ({', '.join(sorted(_EXTENSIONS))}), got none. "
            "Add some or remove the folder"
        )
    return found


def _images(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in _EXTENSIONS
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
