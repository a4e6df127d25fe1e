"""Reader of boxes in COCO's format."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.data.boxes import BoxSet, padded
from understudy.data.decode import decode
from understudy.data.masks import fit_image
from understudy.metrics.boxes import check_pycocotools

_THREADS = 2  # as in understudy.data.decode
_GIB = 2**30


def read_coco(
    root: str | Path,
    train: str = "train",
    test: str | None = "val",
    image_size: int | tuple[int, int] | None = None,
    max_gib: float = 8.0,
) -> tuple[BoxSet, BoxSet | None]:
    """Returns images with boxes in COCO's format: ``ROOT/SPLIT.json`` or ``ROOT/annotations/instances_SPLIT.json``.

    The images are in ``ROOT/SPLIT``. Classes are the categories in the order of their numbers, which may have gaps.
    Boxes are cut at the edge of their image, and those of which nothing is left are dropped. Crowds are not learned
    from; a detection in one counts for nothing.

    Args:
        root: folder of the set.
        train: name of the split that is trained on.
        test: of the one that is measured, once; ``None`` for none.
        image_size: height and width (one number: both) that all images are scaled to fit into; what is left over, below
            and to the right, is black. ``None``: as they are, all of one size.
        max_gib: memory that the images of a split may take, in GiB.

    Raises:
        ValueError: a file is missing or is not what it must be; pycocotools, which the scores need, is not installed.

    Reference: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; cocodataset.org/#format-data.
    """
    check_pycocotools()
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root must be a folder, got {root}, which is none. Check the path")
    if train == test:
        raise ValueError(f"data.train and data.test must be two splits, got {train} for both. Use data.val")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    learned = _read(folder, train, size, max_gib)
    if test is None:
        return learned, None
    measured = _read(folder, test, size, max_gib)
    if measured.classes != learned.classes:
        raise ValueError(
            f"{train} and {test} must have the same categories, got {', '.join(learned.classes[:5])} ... and "
            f"{', '.join(measured.classes[:5])} .... Write both files from one list"
        )
    if measured.image_size != learned.image_size:
        raise ValueError(
            f"{train} and {test} must have images of one size, got {learned.image_size} and {measured.image_size}. "
            "Set data.image_size=[HEIGHT,WIDTH] to scale all"
        )
    return learned, measured


@dataclass(frozen=True, slots=True)
class _Image:
    """An entry of ``images``."""

    path: Path
    width: int
    height: int
    rows: list[list[float]]
    """Class number, box, crowd and area of each object, in pixels of the image as it is."""


def _read(folder: Path, split: str, size: tuple[int, int] | None, max_gib: float) -> BoxSet:
    file = _annotation_file(folder, split)
    content = _parse(file)
    categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
    images, dropped = _images(content, folder / split, file)
    height, width = size or (images[0].height, images[0].width)
    needed = len(images) * 3 * height * width / _GIB
    if needed > max_gib:
        raise ValueError(
            f"{file} must fit in data.max_gib = {max_gib:g} GiB of memory, got {needed:.2f} GiB ({len(images):,} "
            f"images of 3 x {height} x {width}). Lower data.image_size or raise data.max_gib"
        )
    pixels = np.zeros((len(images), 3, height, width), dtype=np.uint8)
    rows: list[Tensor] = [torch.zeros(0, 7)] * len(images)
    scales = [1.0] * len(images)

    def fill(i: int) -> None:
        image, given = _pixels(images[i]), images[i]
        if size is not None:
            image = fit_image(image, size)
        elif image.shape[1:] != (height, width):
            raise ValueError(
                f"all images must have one size, got {width} x {height} pixels first and {given.width} x "
                f"{given.height} in {given.path}. Set data.image_size=[HEIGHT,WIDTH] to scale all"
            )
        pixels[i, :, : image.shape[1], : image.shape[2]] = image
        across, down = (
            image.shape[2] / given.width,
            image.shape[1] / given.height,
        )  # differ by rounding to pixels
        rows[i] = torch.tensor(given.rows, dtype=torch.float32).reshape(-1, 7)
        rows[i][:, 1:5] *= torch.tensor([across, down, across, down])
        scales[i] = math.sqrt(across * down)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(fill, range(len(images))):
            pass  # results come in order: the first failure is the one raised
    found = BoxSet.read(
        torch.from_numpy(pixels),
        padded(rows, scales),
        [categories[number] for number in sorted(categories)],
        str(file),
    )
    assert isinstance(found, BoxSet)
    note = f"{dropped:,} of the boxes in {file.name} have no area within their image and are left out"
    return replace(found, notes=(note,) if dropped else ())


def _annotation_file(folder: Path, split: str) -> Path:
    places = (folder / f"{split}.json", folder / "annotations" / f"instances_{split}.json")
    for place in places:
        if place.is_file():
            return place
    raise ValueError(
        f"data.root must hold {split}.json or annotations/instances_{split}.json, got {folder} without. "
        "Check data.root and the split"
    )


_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
"""What each entry of the file must say."""


def _parse(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the content of an annotation file, whose entries say what they must."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} must be JSON, got {error}. Write it anew") from None
    for part, keys in _KEYS.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{file} must hold a list of {part}, got none. It is not in COCO's format")
        for entry in entries:
            missing = [key for key in keys if key not in entry]
            if missing:
                raise ValueError(
                    f"every entry of {part} in {file} must have {', '.join(keys)}, got one without "
                    f"{', '.join(missing)}: {str(entry)[:80]}. Correct it"
                )
    for part, key in (
        ("images", "id"),
        ("categories", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
    ):
        kinds = {type(entry[key]) for entry in content[part]}
        if not kinds <= {int, float, str} or (str in kinds and len(kinds) > 1):
            raise ValueError(
                f"every {key} of {part} in {file} must be a number, or every one a text, got "
                f"{', '.join(sorted(kind.__name__ for kind in kinds))}. Correct them"
            )
    for part in ("images", "categories"):
        numbers = Counter(entry["id"] for entry in content[part])
        twice = next((number for number, count in numbers.items() if count > 1), None)
        if twice is not None:
            raise ValueError(
                f"every id of {part} in {file} must be there once, got {twice} twice. Correct it"
            )
    if not content["images"] or not content["categories"]:
        raise ValueError(f"{file} must hold at least one image and one category, got none. Check the file")
    return content


def _images(
    content: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path, file: Path
) -> tuple[list[_Image], int]:
    """Returns the images in the order of the file, and how many boxes were dropped."""
    numbers = {number: k for k, number in enumerate(sorted(e["id"] for e in content["categories"]), start=1)}
    sizes = {entry["id"]: _size(entry, file) for entry in content["images"]}
    rows: dict[Any, list[list[float]]] = defaultdict(list)
    dropped = 0
    for entry in content["annotations"]:
        image, category = entry["image_id"], entry["category_id"]
        for key, value, known in (("image_id", image, sizes), ("category_id", category, numbers)):
            if value not in known:
                raise ValueError(
                    f"every annotation in {file} must have a known {key}, got {value!r} in annotation "
                    f"{entry.get('id', '?')}. Correct it"
                )
        left, top, width, height = _box(entry, file)
        right, bottom = min(left + width, sizes[image][0]), min(top + height, sizes[image][1])
        left, top = max(left, 0.0), max(top, 0.0)
        if right - left <= 0 or bottom - top <= 0 or width <= 0 or height <= 0:
            dropped += 1
            continue
        crowd = float(bool(entry.get("iscrowd", 0)))
        area = _area(entry, width * height, file)
        number = numbers[category]
        rows[image].append([0.0 if crowd else number, left, top, right, bottom, crowd and number, area])
    images = [
        _Image(_within(folder, str(entry["file_name"]), file), *sizes[entry["id"]], rows[entry["id"]])
        for entry in content["images"]
    ]
    return images, dropped


def _within(folder: Path, name: str, file: Path) -> Path:
    path = folder / name
    if (
        ".." in Path(name).parts or Path(name).is_absolute()
    ):  # a link in the folder may lead where its owner wants
        raise ValueError(
            f"every file_name in {file} must be a path within {folder}, got {name!r}. Correct it"
        )
    return path


def _size(entry: Mapping[str, Any], file: Path) -> tuple[int, int]:
    sides = entry["width"], entry["height"]
    if not all(isinstance(side, int | float) and side > 0 and side == int(side) for side in sides):
        raise ValueError(
            f"width and height must be whole numbers of pixels, got {sides[0]!r} and {sides[1]!r} in image "
            f"{entry.get('id', '?')} of {file}. Correct them"
        )
    return int(sides[0]), int(sides[1])


def _area(entry: Mapping[str, Any], of_box: float, file: Path) -> float:
    """Returns the area of an object; that of its box, where the file says none."""
    area = entry.get("area")
    if area is not None and not (isinstance(area, int | float) and math.isfinite(area)):
        raise ValueError(
            f"area must be a number of pixels, got {area!r} in annotation {entry.get('id', '?')} of {file}. Correct it"
        )
    return of_box if area is None else float(area)


def _box(entry: Mapping[str, Any], file: Path) -> tuple[float, float, float, float]:
    box = entry["bbox"]
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
    if not numbers or not all(math.isfinite(side) for side in box):
        raise ValueError(
            f"bbox must be four numbers (left, top, width, height), got {str(box)[:60]} in annotation "
            f"{entry.get('id', '?')} of {file}. Correct it"
        )
    left, top, width, height = map(float, box)
    return left, top, width, height


def _pixels(image: _Image) -> NDArray[np.uint8]:
    """Returns the pixels of a file ``(3, H, W)``, of the size that was said."""
    try:
        pixels = decode(image.path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{image.path} must be an image that can be read, got one that cannot ({error}). Replace it or take it out"
        ) from None
    if pixels.shape[1:] != (image.height, image.width):
        raise ValueError(
            f"{image.path} must be {image.width} x {image.height} pixels, as its annotations say, got "
            f"{pixels.shape[2]} x {pixels.shape[1]}. Its boxes would be elsewhere: write them anew"
        )
    return pixels
