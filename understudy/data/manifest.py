"""Images listed in a table: CSV, JSON or JSON lines, a path and a label a row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.data.images import ImageSet, check_apart, numbered
from understudy.data.multilabel import MultiLabelSet, Rows, are_numbers, as_number, from_columns, from_names
from understudy.data.undecoded import Files, Form, Resident, read_images

UNLABELLED = -1
"""The class number of an image without a label."""


def read_manifest(
    train: str | Path,
    test: str | Path | None = None,
    root: str | Path | None = None,
    image_column: str = "image",
    label_column: str = "label",
    label_separator: str | None = None,
    label_columns: Sequence[str] | None = None,
    image_size: int | None = None,
    channels: int = 3,
    max_gib: float = 8.0,
    resident: Resident = "auto",
    workers: int | None = None,
    resize: int | None = None,
) -> tuple[ImageSet, ImageSet | None]:
    """Returns the images that a table lists.

    ``.csv`` with a header, ``.json`` (a list of objects) or ``.jsonl``. Labels are names, numbered in sorted order, or
    class numbers if all are whole numbers. A training image whose label is empty (or -1, or not a number) has none, and
    only terms that use no labels can learn from it.

    Images may have several classes each: lists of names (JSON), names joined by ``label_separator``, or a column of 1
    and 0 for every class (``label_columns``). See :mod:`understudy.data.multilabel` for what an empty cell means.

    Args:
        train: the table.
        test: likewise; its labels must be among those of ``train``, and all there.
        root: folder that the paths are relative to, by default the table's own; no path may lead out of it.
        image_column: name of the column of paths.
        label_column: name of the column of labels.
        label_separator: what stands between the classes of one image in that column, such as ``;`` or a space.
        label_columns: names of the columns that hold a 1, a 0 or nothing for one class each.
        image_size: side in pixels that all images are scaled and cropped to; ``None``: all must have one size.
        channels: 1 for grey, 3 for colour.
        max_gib: memory the decoded images of one table may take, in GiB.
        resident: whether they are decoded into memory; ``auto``: if they fit.
        workers: processes that decode them otherwise, by default one a processor.
        resize: pixels that the shorter side is scaled to before the square is cut out; by default ``image_size``.

    Raises:
        ValueError: a table cannot be read, is given twice, lacks a column, or leads out of ``root``; a label is
            missing; an image cannot be read; sizes differ; the images do not fit.
    """
    tables = {"train": Path(train).expanduser()}
    if test is not None:
        tables["test"] = Path(test).expanduser()
        if tables["test"].resolve() == tables["train"].resolve():
            raise ValueError(f"data.train and data.test must be two tables, got {train} for both. Divide it")
    rows = {option: _rows(path, option) for option, path in tables.items()}
    if label_separator is not None and label_columns is not None:
        raise ValueError(
            "data.label_separator and data.label_columns must not be given together, got both. Leave one out"
        )
    lists = any(isinstance(row.get(label_column), list) for row in rows["train"])
    if label_columns is not None:
        kind, (classes, targets) = MultiLabelSet, from_columns(rows, label_columns)
    elif label_separator is not None or lists:
        kind = MultiLabelSet
        classes, targets = from_names(rows, label_column, label_separator, tables["train"])
    else:
        kind, (classes, targets) = ImageSet, _one_each(rows, label_column, tables)
    sets, form = {}, Form(image_size, channels, max_gib, resident, workers, resize)
    files = {option: list(_files(rows[option], image_column, root, path)) for option, path in tables.items()}
    check_apart(files["train"], files.get("test", []))
    for option, path in tables.items():
        images = read_images(Files(files[option]), str(path), form)
        sets[option] = kind.read(images, targets[option], classes, str(path), unlabelled=option == "train")
    return sets["train"], sets.get("test")


def _one_each(
    rows: Rows, column: str, tables: Mapping[str, Path]
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Returns the classes and the class numbers of every table, of rows that give an image one label."""
    labels = {option: [_label(row, column) for row in found] for option, found in rows.items()}
    if are_numbers(label for label in labels["train"] if label is not None):
        labels = {o: [None if x is None else as_number(x) for x in found] for o, found in labels.items()}
    classes = _classes([label for label in labels["train"] if label is not None], tables["train"])
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    numbers[None] = UNLABELLED
    for option, found in labels.items():
        for i, label in enumerate(found, start=1):
            if label not in numbers or (label is None and option == "test"):
                raise ValueError(
                    f"labels of {tables[option]} must be among the classes of {tables['train']}, got {label!r} in row "
                    f"{i}. Correct the row or take it out"
                )
    return classes, {option: torch.tensor([numbers[x] for x in found]) for option, found in labels.items()}


def _rows(path: Path, option: str) -> list[Mapping[str, Any]]:
    if path.suffix not in (".csv", ".json", ".jsonl") or not path.is_file():
        raise ValueError(f"data.{option} must be a .csv, .json or .jsonl file, got {path}. Check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            return _whole(list(csv.DictReader(io.StringIO(text, newline=""))), path)
        found = (
            json.loads(text)
            if path.suffix == ".json"
            else [json.loads(line) for line in text.split("\n") if line.strip()]
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


def _whole(rows: Sequence[dict[Any, Any]], path: Path) -> list[Mapping[str, Any]]:
    """Refuses rows of more or fewer cells than there are columns, most often a comma that is not quoted."""
    for i, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(
                f"every row of {path} must have a cell for each column, got {'more' if None in row else 'fewer'} in "
                f"row {i}. Quote what has commas in it"
            )
    return list(rows)


def _label(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    text = (
        "" if value is None or value != value else str(value).strip()
    )  # JSON's NaN: a gap in a table of pandas
    return None if text in ("", "-1", "-1.0") else text


def _classes(labels: Sequence[str], path: Path) -> tuple[str, ...]:
    if not labels:
        raise ValueError(f"{path} must give some image a label, got none. Check data.label_column")
    if are_numbers(labels):
        return numbered(max(map(int, labels)), str(path))
    return tuple(sorted(set(labels)))


def _files(
    rows: Sequence[Mapping[str, Any]], column: str, root: str | Path | None, table: Path
) -> Iterator[Path]:
    folder = table.parent if root is None else Path(root).expanduser()
    for i, row in enumerate(rows, start=1):
        yield _file(row, column, folder, f"{table} row {i}")


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
