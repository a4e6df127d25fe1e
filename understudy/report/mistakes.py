"""Test images that a student gets wrong, with its opinion and its teacher's: written after training, for the page."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from understudy.data.undecoded import Undecoded
from understudy.files import write_json
from understudy.report.folder import items, number
from understudy.report.tables import finite

FILE = "mistakes.json"
"""Where a run folder keeps them."""
FORMAT = 1
MOST = 24
"""So many images at most,"""
MOST_OF_A_KIND = 3
"""of which so many of one class that are taken for the same other one."""
SIDE = 128
"""Pixels of a side at most."""
_OPINIONS = 3


@dataclass(frozen=True, slots=True)
class Opinion:
    """A class and the probability that a network gives it."""

    name: str
    percent: float
    right: bool


@dataclass(frozen=True, slots=True)
class Mistake:
    """One image as the page shows it."""

    picture: str
    """A ``data:`` address of a PNG."""
    position: int
    """Of the image in the test set, from 0."""
    truth: str
    student: tuple[Opinion, ...]
    """Most probable first."""
    teacher: tuple[Opinion, ...]
    """Likewise; empty without a teacher."""


def write_mistakes(
    folder: Path, images: Tensor | Undecoded, target: Tensor, student: Tensor, teacher: Tensor | None
) -> None:
    """Writes the images on which the student was wrong and most sure of it.

    Args:
        folder: of the run.
        images: ``(N, C, H, W)`` uint8, grey or colour.
        target: ``(N,)`` int64.
        student: ``(N, C)`` logits.
        teacher: likewise, if there is one.
    """
    target, sure = target.cpu(), student.float().softmax(dim=1).cpu()
    theirs = None if teacher is None else teacher.float().softmax(dim=1).cpu()
    confidence, predicted = sure.max(dim=1)
    wrong = (predicted != target).nonzero().flatten()
    kinds: Counter[tuple[int, int]] = Counter()
    chosen = []
    for i in wrong[confidence[wrong].argsort(descending=True, stable=True)].tolist():
        kind = (int(target[i]), int(predicted[i]))
        kinds[kind] += 1
        if kinds[kind] <= MOST_OF_A_KIND and len(chosen) < MOST:
            chosen.append(i)
    places = torch.tensor(chosen, dtype=torch.int64, device=images.device)
    pictures = images.index_select(0, places) if chosen else []
    write_json(
        folder / FILE,
        {
            "format": FORMAT,
            "wrong": len(wrong),
            "images": [
                {
                    "position": i,
                    "target": int(target[i]),
                    "png": _png(picture),
                    "student": _opinions(sure[i]),
                    "teacher": None if theirs is None else _opinions(theirs[i]),
                }
                for i, picture in zip(chosen, pictures, strict=True)
            ],
        },
    )


def read_mistakes(folder: Path, classes: Sequence[str]) -> tuple[int, list[Mistake]]:
    """Returns how many test images were wrong, and some of them; 0 and none without the file.

    Raises:
        ValueError: the file is malformed.
    """
    file = folder / FILE
    if not file.is_file():
        return 0, []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} must be JSON, got {error}. Evaluate the run again, or delete it") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{file} must have format {FORMAT}. Use the version of understudy that wrote it")
    return int(number(content, "wrong") or 0), [
        _mistake(entry, classes) for entry in items(content, "images")
    ]


def _png(image: Tensor) -> str:
    """Returns one image ``(C, H, W)`` uint8 as a PNG in base64, made smaller where it is large."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _opinions(probabilities: Tensor) -> list[tuple[int, float]]:
    top = probabilities.topk(min(_OPINIONS, len(probabilities)))
    return list(zip(top.indices.tolist(), [round(100 * p, 2) for p in top.values.tolist()], strict=True))


def _mistake(entry: Mapping[str, Any], classes: Sequence[str]) -> Mistake:
    png = str(entry.get("png", ""))
    truth = int(number(entry, "target") or 0)
    return Mistake(
        picture="data:image/png;base64," + (png if _is_base64(png) else ""),
        position=int(number(entry, "position") or 0),
        truth=_name(truth, classes),
        student=_read_opinions(entry.get("student"), truth, classes),
        teacher=_read_opinions(entry.get("teacher"), truth, classes),
    )


def _read_opinions(value: Any, truth: int, classes: Sequence[str]) -> tuple[Opinion, ...]:
    pairs = value if isinstance(value, list) else []
    return tuple(
        Opinion(_name(int(c), classes), float(percent), int(c) == truth)
        for c, percent in pairs
        if isinstance(percent, int | float) and finite(percent)
    )


def _name(number: int, classes: Sequence[str]) -> str:
    return classes[number] if number < len(classes) else f"class {number}"


def _is_base64(text: str) -> bool:
    return text.isascii() and all(c.isalnum() or c in "+/=" for c in text)
