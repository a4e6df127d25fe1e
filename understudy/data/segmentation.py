"""Readers of segmentation sets: folders of images and masks (CamVid), Cityscapes, PASCAL VOC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from understudy.data.images import check_apart
from understudy.data.masks import MaskSet, Pair, read_pairs

_EXTENSIONS = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))

CITYSCAPES: Mapping[str, int] = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The 19 classes that are measured, in their order, and their values in ``*_labelIds.png``."""
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 21 classes of PASCAL VOC, in their order."""


def read_mask_folder(
    root: str | Path,
    train: str = "train",
    test: str | None = "val",
    image_size: int | tuple[int, int] | None = None,
    max_gib: float = 8.0,
) -> tuple[MaskSet, MaskSet | None]:
    """Returns the pairs ``ROOT/images/SPLIT/**/NAME.*`` and ``ROOT/labels/SPLIT/**/NAME.png``.

    ``ROOT/classes.txt`` has the name of a class on each line; class 0 is the first. Masks hold class numbers, 255 where
    a pixel is ignored.

    Args:
        root: folder of the set.
        train: name of the split that is trained on.
        test: of the one that is measured, once; ``None`` for none.
        image_size: as :func:`understudy.data.masks.read_pairs` takes it.
        max_gib: likewise, for each split.

    Raises:
        ValueError: a folder or file is missing, or a pair is not what it must be.
    """
    folder = _root(root)
    classes = _class_names(folder / "classes.txt")

    def pairs(split: str) -> list[Pair]:
        images = folder / "images" / split
        return [
            Pair(path, (folder / "labels" / split / path.relative_to(images)).with_suffix(".png"))
            for path in _files(images, "images/SPLIT")
        ]

    def read(found: list[Pair], split: str) -> MaskSet:
        name = str(folder / "images" / split)
        return read_pairs(found, classes, name, image_size=image_size, max_gib=max_gib)

    return _both(pairs, read, train, test)


def read_cityscapes(
    root: str | Path,
    train: str = "train",
    test: str | None = "val",
    image_size: int | tuple[int, int] | None = None,
    max_gib: float = 8.0,
) -> tuple[MaskSet, MaskSet | None]:
    """Returns Cityscapes' fine annotations in the 19 classes that are measured.

    Pairs are ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png``, or
    ``*_labelIds.png`` where those were not made. The labels of the benchmark's own test split are not public, so
    ``val`` is what is measured, as in the papers.

    Args:
        root: folder that holds ``leftImg8bit`` and ``gtFine``.
        train: as in :func:`read_mask_folder`.
        test: likewise.
        image_size: likewise; ``[512, 1024]`` is half the original's.
        max_gib: likewise.

    Raises:
        ValueError: a folder or file is missing, or a pair is not what it must be.

    Reference: Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016.
    """
    folder, end = _root(root), "_leftImg8bit.png"

    def pairs(split: str) -> list[Pair]:
        images, labels = folder / "leftImg8bit" / split, folder / "gtFine" / split
        stems = [
            path.relative_to(images)
            for path in _files(images, "leftImg8bit/SPLIT")
            if path.name.endswith(end)
        ]

        def of(kind: str) -> list[Pair]:
            names = {stem: stem.name.removesuffix(end) + f"_gtFine_{kind}.png" for stem in stems}
            return [Pair(images / stem, labels / stem.parent / name) for stem, name in names.items()]

        trained = of("labelTrainIds")
        return trained if trained and trained[0].mask.is_file() else of("labelIds")

    def read(found: list[Pair], split: str) -> MaskSet:
        numbers = {value: number for number, value in enumerate(CITYSCAPES.values())}
        ready = bool(found) and found[0].mask.name.endswith("labelTrainIds.png")
        return read_pairs(
            found,
            tuple(CITYSCAPES),
            str(folder / "leftImg8bit" / split),
            image_size=image_size,
            max_gib=max_gib,
            numbers=None if ready else numbers,
        )

    return _both(pairs, read, train, test)


def read_voc(
    root: str | Path,
    train: str = "train",
    test: str | None = "val",
    image_size: int | tuple[int, int] | None = None,
    max_gib: float = 8.0,
) -> tuple[MaskSet, MaskSet | None]:
    """Returns PASCAL VOC's segmentation.

    That is ``JPEGImages``, ``SegmentationClass`` and ``ImageSets/Segmentation/SPLIT.txt``. Its images differ in size,
    so ``image_size`` is needed.

    Args:
        root: folder that holds those (``VOCdevkit/VOC2012``).
        train: as in :func:`read_mask_folder`; ``trainaug`` where that list was added.
        test: likewise.
        image_size: likewise.
        max_gib: likewise.

    Raises:
        ValueError: a folder or file is missing, or a pair is not what it must be.

    Reference: Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015.
    """
    folder = _root(root)

    def listing(split: str) -> Path:
        return folder / "ImageSets" / "Segmentation" / f"{split}.txt"

    def pairs(split: str) -> list[Pair]:
        listed = listing(split)
        if not listed.is_file():
            raise ValueError(
                f"data.root must hold ImageSets/Segmentation/{split}.txt, got {folder} without. Check the path"
            )
        names = listed.read_text(encoding="utf-8").split()
        images, masks = folder / "JPEGImages", folder / "SegmentationClass"
        return [Pair(images / f"{name}.jpg", masks / f"{name}.png") for name in names]

    def read(found: list[Pair], split: str) -> MaskSet:
        return read_pairs(found, VOC, str(listing(split)), image_size=image_size, max_gib=max_gib)

    return _both(pairs, read, train, test)


def _root(root: str | Path) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root must be a folder, got {root}, which is none. Check the path")
    return folder


def _both(
    pairs: Callable[[str], list[Pair]],
    read: Callable[[list[Pair], str], MaskSet],
    train: str,
    test: str | None,
) -> tuple[MaskSet, MaskSet | None]:
    if train == test:
        raise ValueError(f"data.train and data.test must be two splits, got {train} for both. Use data.val")
    trained, measured = pairs(train), [] if test is None else pairs(test)
    check_apart(
        (pair.image for pair in trained), (pair.image for pair in measured)
    )  # VOC's trainval holds val
    return read(trained, train), None if test is None else read(measured, test)


def _files(folder: Path, option: str) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(
            f"data.root must hold {option}, got no folder {folder}. Check data.root and the split"
        )
    found = (p for p in folder.rglob("*") if p.suffix.lower() in _EXTENSIONS and not p.name.startswith("."))
    return sorted(found)


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ValueError(
            f"data.root must hold classes.txt with the name of a class on each line, got none at {path}. Write it"
        )
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(set(names)) < len(names):
        raise ValueError(
            f"{path} must name every class once, got {len(names) - len(set(names))} twice. Correct it"
        )
    return names
