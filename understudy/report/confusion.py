"""The confusion matrix: what is read off it, and its picture where it is too large for a table."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from understudy.report.folder import class_names
from understudy.report.tables import MISSING, Cell, Column, Table, number_cell, signed

MOST_NAMED = 30
"""Up to this many classes the matrix is a table with names; above, a picture without."""
MOST_PIXELS = 400
"""Side of the largest picture, in pixels; more classes than this share pixels."""
RIGHT, WRONG = (46, 125, 210), (222, 108, 16)
"""Blue and orange, RGB: told apart with every kind of colour vision, legible on white and on black."""


@dataclass(frozen=True, slots=True)
class Square:
    """One cell of the matrix as a table: count, strength of its colour (0 to 1), right or wrong."""

    count: str
    strength: float
    right: bool


@dataclass(frozen=True, slots=True)
class Confusion:
    """What the page shows of a confusion matrix: ``squares`` or ``picture``, never both."""

    names: tuple[str, ...]
    squares: tuple[tuple[Square, ...], ...]
    pixels: bool
    """Whether pixels were counted, not images; squares then say percent of the true class."""
    picture: str
    """A ``data:`` address of a PNG, or empty."""
    classes_a_pixel: int
    pairs: Table | None
    """The ten most confused pairs; ``None`` if nothing was confused."""
    per_class: Table


def read_confusion(result: Mapping[str, Any], alone: Mapping[str, Any] | None = None) -> Confusion | None:
    """Returns what to show of ``result["confusion"]``, ``None`` if there is none.

    Args:
        result: of ``result.json``: ``confusion`` (rows true, columns predicted) and ``classes``.
        alone: of the same student trained without a teacher, to stand beside it class by class.

    Raises:
        ValueError: the matrix is not square or holds what is no number.
    """
    if not result.get("confusion"):
        return None
    matrix = _as_matrix(result["confusion"])  # (C, C)
    known = class_names(result)
    names = tuple(known[c] if c < len(known) else f"class {c}" for c in range(len(matrix)))
    strength = _strength(matrix)
    large, pixels = len(names) > MOST_NAMED, _of_pixels(result)
    return Confusion(
        names=names,
        squares=() if large else _squares(matrix, strength, pixels),
        pixels=pixels,
        picture=_picture(strength) if large else "",
        classes_a_pixel=-(-len(names) // MOST_PIXELS),
        pairs=_most_confused(matrix, names, "Pixels" if pixels else "Images"),
        per_class=_per_class(matrix, names, _others(result, alone, len(matrix)), pixels),
    )


def class_accuracy(result: Mapping[str, Any]) -> list[float | None]:
    """Returns the accuracy of every class in percent, ``None`` for one without an image; empty without a matrix.

    Of a segmentation it is the intersection over union, of a detection the average precision.
    """
    if isinstance(precisions := result.get("class_ap"), list):
        return [float(value) if isinstance(value, int | float) else None for value in precisions]
    if not result.get("confusion"):
        return []
    return _scores(_as_matrix(result["confusion"]), _of_pixels(result))


def _of_pixels(result: Mapping[str, Any]) -> bool:
    return result.get("task") == "segmentation"


def _scores(matrix: NDArray[np.float64], pixels: bool) -> list[float | None]:
    """Returns accuracy or, of pixels, intersection over union of every class in percent."""
    right, every = matrix.diagonal(), matrix.sum(axis=1)
    every = every + matrix.sum(axis=0) - right if pixels else every
    return [float(100 * right[c] / every[c]) if every[c] else None for c in range(len(matrix))]


def _others(
    result: Mapping[str, Any], alone: Mapping[str, Any] | None, count: int
) -> list[tuple[str, list[float | None]]]:
    """Returns who else was measured on these classes, and how each did."""
    teacher = result.get("teacher")
    key = "class_iou" if _of_pixels(result) else "class_acc1"
    theirs = teacher.get(key) if isinstance(teacher, Mapping) else None
    found = [
        (
            "Teacher",
            [v if isinstance(v, int | float) else None for v in theirs] if isinstance(theirs, list) else [],
        ),
        ("Alone", class_accuracy(alone or {})),
    ]
    return [(name, values) for name, values in found if len(values) == count]


def _as_matrix(confusion: Any) -> NDArray[np.float64]:
    """Returns the counts ``(C, C)``; NaN, infinities and negative counts become 0."""
    try:
        matrix = np.asarray(confusion, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            "confusion must be rows of numbers, all of one length. Evaluate the run again"
        ) from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"confusion must be a square matrix, got shape {matrix.shape}. Evaluate the run again"
        )
    return np.where(np.isfinite(matrix) & (matrix > 0), matrix, 0.0)


def _shares(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns each count as a share of its row, ``(C, C)`` from 0 to 1; rows without an image are 0."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)


def _strength(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the strength of every colour: right by share, wrong by the root relative to the worst."""
    shares = _shares(matrix)
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0.0)
    strength = np.sqrt(wrong / max(wrong.max(), 1e-9))  # the root keeps rare confusions visible
    np.fill_diagonal(strength, shares.diagonal())
    return strength


def _squares(
    matrix: NDArray[np.float64], strength: NDArray[np.float64], pixels: bool
) -> tuple[tuple[Square, ...], ...]:
    shown = 100 * _shares(matrix) if pixels else matrix
    return tuple(
        tuple(
            Square(f"{shown[t, p]:,.0f}", round(float(strength[t, p]), 3), t == p) for p in range(len(matrix))
        )
        for t in range(len(matrix))
    )


def _picture(strength: NDArray[np.float64]) -> str:
    """Returns the matrix as a PNG, one pixel a cell (the strongest of a block where classes share pixels)."""
    block = -(-len(strength) // MOST_PIXELS)
    side = -(-len(strength) // block)
    padded = np.zeros((side * block, side * block))
    padded[: len(strength), : len(strength)] = strength
    right = np.diag(padded.diagonal())
    wrong = padded - right
    right, wrong = (half.reshape(side, block, side, block).max(axis=(1, 3)) for half in (right, wrong))
    pixels = np.zeros((side, side, 4), dtype=np.uint8)
    pixels[..., :3] = np.where((right > 0)[..., None], RIGHT, WRONG)
    pixels[..., 3] = np.round(255 * np.where(right > 0, right, wrong))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _most_confused(matrix: NDArray[np.float64], names: Sequence[str], samples: str) -> Table | None:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0.0)
    shares = _shares(matrix)
    order = np.argsort(-wrong, axis=None, kind="stable")[:10]
    pairs = [(int(flat) // len(names), int(flat) % len(names)) for flat in order]
    rows = tuple(
        (
            Cell(names[t]),
            Cell(names[p]),
            number_cell(float(wrong[t, p]), digits=0),
            number_cell(100 * float(shares[t, p]), digits=1),
        )
        for t, p in pairs
        if wrong[t, p] > 0
    )
    columns = (
        Column("True class", numeric=False),
        Column("Predicted as", numeric=False),
        Column(samples),
        Column("Share, %"),
    )
    return Table("Most confused pairs, with their share of the true class", columns, rows) if rows else None


def _per_class(
    matrix: NDArray[np.float64],
    names: Sequence[str],
    others: Sequence[tuple[str, Sequence[float | None]]],
    pixels: bool,
) -> Table:
    samples, scores = matrix.sum(axis=1), _scores(matrix, pixels)
    rows = []
    for c, mine in enumerate(scores):
        cells = [Cell(names[c]), number_cell(mine, digits=1), number_cell(float(samples[c]), digits=0)]
        for _, values in others:
            cells += [number_cell(values[c], digits=1), _gain(mine, values[c])]
        rows.append(tuple(cells))
    measure, counted = ("IoU", "Labelled pixels") if pixels else ("Accuracy", "Test images")
    columns = [Column("Class", numeric=False), Column(f"{measure}, %"), Column(counted)]
    for name, _ in others:
        columns += [Column(f"{name}, %"), Column(f"Minus {name.lower()}")]
    return Table(f"{measure} by class", tuple(columns), tuple(rows))


def _gain(mine: float | None, other: float | None) -> Cell:
    if mine is None or other is None:
        return Cell(MISSING)
    return Cell(signed(mine - other, 1), mine - other)
