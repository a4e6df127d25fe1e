"""Pictures with boxes around objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from understudy.report.palette import palette

SURE = 0.5
"""Score from which an object that was found is drawn."""


def found_rows(found: Tensor, least: float = SURE) -> list[list[float]]:
    """Returns the objects of one image ``(D, 6)`` as rows of box, class number from 0 and score."""
    rows = found[found[:, 4] >= max(least, 1e-9)].double().tolist()
    return [[*row[:4], int(row[5]) - 1, row[4]] for row in rows]


def true_rows(target: Tensor) -> list[list[float]]:
    """Returns the labelled objects of one image ``(M, 8)`` as rows of box and class number from 0, without crowds."""
    return [[*row[1:5], int(row[0]) - 1] for row in target.double().tolist() if row[0] > 0]


def box_picture(
    image: Image.Image, rows: Sequence[Sequence[float]], num_classes: int, scale: float = 1.0
) -> Image.Image:
    """Returns an image with boxes in the colours of their classes.

    Args:
        image: on which they are drawn; it is not changed.
        rows: of :func:`found_rows` or :func:`true_rows`, in pixels of the image.
        num_classes: C.
        scale: by how much the picture is larger than the image.
    """
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    draw, colours = ImageDraw.Draw(picture), palette(num_classes)
    for row in rows:
        left, top, right, bottom = (side * scale for side in row[:4])
        draw.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), outline=colours[int(row[4])], width=2
        )
    return picture


def is_rows(value: Any, num_classes: int) -> bool:
    """Returns whether a value out of a file is rows of boxes with classes there are."""
    return isinstance(value, list) and all(
        isinstance(row, list)
        and len(row) in (5, 6)
        and all(isinstance(side, int | float) and abs(side) < 1e6 for side in row)
        and 0 <= row[4] < num_classes
        and row[0] <= row[2]
        and row[1] <= row[3]
        for row in value
    )
