"""Test images with their masks and those that networks gave them: written after training, for the page."""

from __future__ import annotations

import base64
import colorsys
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
from understudy.interface import IGNORE
from understudy.report.folder import items, number

FILE = "examples.json"
"""Where a run folder keeps them."""
FORMAT = 1
MOST = 6
"""So many images."""
SIDE = 320
"""Pixels of a side at most."""
_GOLDEN = 0.618034  # turns between hues: any number of classes stays apart


@dataclass(frozen=True, slots=True)
class Example:
    """One image as the page shows it; all pictures are ``data:`` addresses of PNGs."""

    position: int
    """Of the image in the test set, from 0."""
    image: str
    truth: str
    masks: Mapping[str, str]
    """Network (``student``, ``teacher``) -> what it gave."""


def palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Returns a colour for every class, red, green and blue from 0 to 255; ignored pixels are black everywhere."""
    colours = []
    for k in range(num_classes):
        rgb = colorsys.hsv_to_rgb(k * _GOLDEN % 1.0, (0.55, 0.85)[k % 2], (0.95, 0.7)[k // 2 % 2])
        colours.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return colours


def mask_picture(mask: NDArray[np.uint8], num_classes: int) -> Image.Image:
    """Returns a mask ``(H, W)`` as a palette PNG whose entries are the class numbers themselves."""
    picture = Image.fromarray(mask)
    colours = [channel for colour in palette(num_classes) for channel in colour]
    picture.putpalette(colours[: 3 * IGNORE] + [0] * (768 - len(colours[: 3 * IGNORE])))
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
        pixels = images[i].permute(1, 2, 0).cpu().numpy()
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])
        shown = {name: _png(Image.fromarray(mask[i].cpu().numpy())) for name, mask in masks.items()}
        entries.append({"position": int(position), "image": _png(picture), **shown})
    write_json(folder / FILE, {"format": FORMAT, "images": entries})


def read_examples(folder: Path, num_classes: int) -> list[Example]:
    """Returns the images of a run folder with coloured masks; none without the file.

    Raises:
        ValueError: the file is malformed.
    """
    file = folder / FILE
    if not file.is_file():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError("another format")
        return [_example(entry, num_classes) for entry in items(content, "images")]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must hold images and masks, got {error}. Delete it") from None


def _example(entry: Mapping[str, Any], num_classes: int) -> Example:
    coloured = {
        name: _address(mask_picture(_pixels(entry[name]), num_classes))
        for name in ("truth", "teacher", "student")
        if name in entry
    }
    truth = coloured.pop("truth")
    image = _address(Image.open(io.BytesIO(base64.b64decode(entry["image"], validate=True))))
    return Example(int(number(entry, "position") or 0), image, truth, coloured)


def _pixels(text: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True))).convert("L"))


def _png(picture: Image.Image) -> str:
    """Returns a picture as PNG in base64, made smaller where it is large (class numbers are not mixed)."""
    scale = SIDE / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _address(picture: Image.Image) -> str:
    return "data:image/png;base64," + _png(picture)
