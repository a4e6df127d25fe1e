"""Test images with their masks or boxes and those that networks gave them: written after training, for the page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from understudy.files import write_json
from understudy.report.boxes import SURE, box_picture, found_rows, is_rows, true_rows
from understudy.report.folder import items, number
from understudy.report.palette import palette

FILE = "examples.json"
"""Where a run folder keeps them."""
FORMAT = 1
MOST = 6
"""So many images."""
SIDE = 320
"""Pixels of a side at most."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image as the page shows it; all pictures are ``data:`` addresses of PNGs."""

    position: int
    """Of the image in the test set, from 0."""
    image: str
    truth: str
    masks: Mapping[str, str]
    """Network (``teacher``, ``student alone``, ``student``) -> what it gave: a mask, or the image with boxes."""


def mask_picture(mask: NDArray[np.uint8], num_classes: int) -> Image.Image:
    """Returns a mask ``(H, W)`` as a palette PNG whose entries are the class numbers themselves."""
    picture = Image.fromarray(mask)
    colours = [channel for colour in palette(num_classes) for channel in colour]
    picture.putpalette(
        colours + [0] * (768 - len(colours))
    )  # at most 255 classes, so black is left for ignored
    return picture


def write_examples(
    folder: Path, positions: Sequence[int], images: Tensor, masks: Mapping[str, Tensor]
) -> None:
    """Writes test images with their masks.

    Args:
        folder: of the run.
        positions: of the images in the test set.
        images: ``(N, C, H, W)`` uint8, grey or colour.
        masks: ``truth``, ``student`` and, if there is one, ``teacher`` -> ``(N, H, W)`` uint8 class numbers.
    """
    entries = []
    for i, position in enumerate(positions):
        picture = _picture(images[i])
        shown = {name: _png(Image.fromarray(mask[i].cpu().numpy())) for name, mask in masks.items()}
        entries.append({"position": int(position), "image": _png(picture), **shown})
    write_json(folder / FILE, {"format": FORMAT, "images": entries})


def write_box_examples(
    folder: Path, positions: Sequence[int], images: Tensor, target: Tensor, found: Mapping[str, Tensor]
) -> None:
    """Writes test images with their boxes.

    Args:
        folder: of the run.
        positions: of the images in the test set.
        images: ``(N, C, H, W)`` uint8, grey or colour.
        target: rows of objects, ``(N, M, 8)``.
        found: ``student`` and, if there is one, ``teacher`` -> objects found, ``(N, D, 6)``.
    """
    entries = []
    for i, position in enumerate(positions):
        shown = {name: found_rows(objects[i]) for name, objects in found.items()}
        picture = _png(_picture(images[i]), shrink=False)
        entries.append({"position": int(position), "image": picture, "truth": true_rows(target[i]), **shown})
    write_json(folder / FILE, {"format": FORMAT, "images": entries})


def example_note(result: Mapping[str, Any]) -> str:
    """Returns what must be known to read the pictures of a run."""
    if result.get("task") == "detection":
        return f"Of networks, boxes with a score of at least {SURE} are drawn."
    return "Black is ignored, it has no label."


def legend(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Returns name and colour (``#rrggbb``) of every class."""
    return [
        (name, "#" + bytes(colour).hex()) for name, colour in zip(classes, palette(len(classes)), strict=True)
    ]


def read_examples(folder: Path, num_classes: int, alone: Path | None = None) -> list[Example]:
    """Returns the images of a run folder with coloured masks; none without the file.

    Args:
        folder: of the run.
        num_classes: C.
        alone: folder of the same student trained without a teacher; the masks it gave the same images are added.

    Raises:
        ValueError: the file is malformed.
    """
    others = {} if alone is None else {e["position"]: e["student"] for e in _entries(alone)}
    found = []
    for entry in _entries(folder):
        student = entry.pop("student")
        masks = entry | ({"student alone": others[e]} if (e := entry["position"]) in others else {})
        found.append(_example(masks | {"student": student}, num_classes, folder))
    return found


def _entries(folder: Path) -> list[dict[str, Any]]:
    """Returns the images of a run as the file has them: position, and pictures in base64."""
    file = folder / FILE
    if not file.is_file():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} must be JSON, got {error}. Delete it") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{file} must have format {FORMAT}. Use the version of understudy that wrote it")
    entries = [dict(entry) for entry in items(content, "images")]
    if any(not {"position", "image", "truth", "student"} <= entry.keys() for entry in entries):
        raise ValueError(f"{file} must hold image, truth and student of every entry. Delete it")
    return entries


def _example(entry: Mapping[str, Any], num_classes: int, folder: Path) -> Example:
    shown: dict[str, str] = {}
    image = Image.new("RGB", (1, 1))
    for name in ("image", "truth", "teacher", "student alone", "student"):
        if name not in entry:
            continue
        if name != "image" and is_rows(entry[name], num_classes):
            shown[name] = _address(box_picture(image, entry[name], num_classes, SIDE / max(image.size)))
            continue
        try:
            picture = Image.open(io.BytesIO(base64.b64decode(str(entry[name]), validate=True)))
            plain = picture.convert("RGB" if name == "image" else "L")
            image = plain if name == "image" else image
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{folder / FILE} must hold pictures, got {error} as {name}. Delete it"
            ) from None
        shown[name] = _address(plain if name == "image" else mask_picture(np.asarray(plain), num_classes))
    position = int(number(entry, "position") or 0)
    return Example(position, shown.pop("image"), shown.pop("truth"), shown)


def _picture(image: Tensor) -> Image.Image:
    """Returns an image ``(C, H, W)`` uint8 as a picture."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])


def _png(picture: Image.Image, shrink: bool = True) -> str:
    """Returns a picture as PNG in base64, made smaller where it is large (class numbers are not mixed)."""
    scale = SIDE / max(picture.size)
    if shrink and scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _address(picture: Image.Image) -> str:
    return "data:image/png;base64," + _png(picture)
