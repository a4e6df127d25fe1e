"""Images listed in a table: CSV, JSON or JSON lines, a path and a label a row."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from understudy.data.images import ImageSet
from understudy.data.undecoded import Files, Form, Resident, read_images

UNLABELLED = -1
"""The class number of an image without a label."""


def read_manifest(
    train: str | Path,
    test: str | Path | None = None,
    root: str | Path | None = None,
    image_column: str = "image",
    label_column: str = "label",
    image_size: int | None = None,
    channels: int = 3,
    max_gib: float = 8.0,
    resident: Resident = "auto",
    workers: int | None = None,
) -> tuple[ImageSet, ImageSet | None]:
    """Returns the images that a table lists.

    ``.csv`` with a header, ``.json`` (a list of objects) or ``.jsonl``. Labels are names, numbered in sorted order, or
    class numbers if all are whole numbers. A training image whose label is empty has none, and only terms that use no
    labels can learn from it.

    Args:
        train: the table.
        test: likewise; its labels must be among those of ``train``, and all there.
        root: folder that the paths are relative to, by default the table's own; no path may lead out of it.
        image_column: name of the column of paths.
        label_column: name of the column of labels.
        image_size: side in pixels that all images are scaled and cropped to; ``None``: all must have one size.
        channels: 1 for grey, 3 for colour.
        max_gib: memory the decoded images of one table may take, in GiB.
        resident: whether they are decoded into memory; ``auto``: if they fit.
        workers: processes that decode them otherwise, by default one a processor.

    Raises:
        ValueError: a table cannot be read, lacks a column, or leads out of ``root``; a label is missing; an image
            cannot be read; sizes differ; the images do not fit.
    """
    tables = {"train": Path(train).expanduser()}
    if test is not None:
        tables["test"] = Path(test).expanduser()
    rows = {option: _rows(path, option) for option, path in tables.items()}
    labels = {option: [_label(row, label_column) for row in found] for option, found in rows.items()}
    classes = _classes([label for label in labels["train"] if label is not None], tables["train"])
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    numbers[None] = UNLABELLED
    sets, form = {}, Form(image_size, channels, max_gib, resident, workers)
    for option, path in tables.items():
        folder = path.parent if root is None else Path(root).expanduser()
        files = [
            _file(row, image_column, folder, f"{path} row {i}") for i, row in enumerate(rows[option], start=1)
        ]
        for i, label in enumerate(labels[option], start=1):
            if label not in numbers or (label is None and option == "test"):
                raise ValueError(
                    f"labels of {path} must be among the classes of {tables['train']}, got {label!r} in row {i}. "
                    "Correct the row or take it out"
                )
        images = read_images(Files(files), str(path), form)
        targets = torch.tensor([numbers[label] for label in labels[option]])
        sets[option] = ImageSet.read(images, targets, classes, str(path), unlabelled=option == "train")
    return sets["train"], sets.get("test")


def _rows(path: Path, option: str) -> list[Mapping[str, Any]]:
    if path.suffix not in (".csv", ".json", ".jsonl") or not path.is_file():
        raise ValueError(f"data.{option} must be a .csv, .json or .jsonl file, got {path}. Check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            return list(csv.DictReader(text.splitlines()))
        found = (
            json.loads(text) if path.suffix == ".json" else [json.loads(x) for x in text.splitlines() if x]
        )
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} must be valid {path.suffix[1:].upper()}, got: {error}. Correct the file"
        ) from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(
            f"{path} must hold a list of objects, one an image, got something else. Correct the file"
        )
    return found


def _label(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    return None if value is None or str(value).strip() == "" else str(value).strip()


def _classes(labels: Sequence[str], path: Path) -> tuple[str, ...]:
    if not labels:
        raise ValueError(f"{path} must give some image a label, got none. Check data.label_column")
    if all(label.isdecimal() for label in labels):
        return tuple(map(str, range(max(map(int, labels)) + 1)))
    return tuple(sorted(set(labels)))


def _file(row: Mapping[str, Any], column: str, root: Path, where: str) -> Path:
    name = row.get(column)
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{where} must have a path in column {column!r}, got columns {', '.join(map(str, row))}. "
            "Set data.image_column"
        )
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"{where} must name a file in {root}, got {name!r}, which leads out of it. Set data.root"
        )
    return path
