"""Images that may have several classes each, and how a table's rows say which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.data.decode import check_some
from understudy.data.images import ImageSet, numbered

_NUMBER = re.compile(r"\d+(\.0*)?")
_THERE, _ABSENT, _UNKNOWN = 1, 0, -1
_CELLS = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), _THERE),
    **dict.fromkeys(("0", "0.0", "false", "no"), _ABSENT),
    **dict.fromkeys(("", "-1", "-1.0", "nan", "none"), _UNKNOWN),
}
Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Option (``train``, ``test``) -> the rows of its table."""
Numbers = Sequence[Sequence[int] | None]
"""The classes of every image by number; ``None``: nothing is known of it."""


@dataclass(frozen=True, slots=True, eq=False)
class MultiLabelSet(ImageSet):
    """Images of one size. ``targets`` is ``(N, C)`` int8: 1 the class is there, 0 it is not, -1 nobody knows."""

    def check(self, *, unlabelled: bool = False) -> MultiLabelSet:
        """Returns the set itself if it can be trained on or measured.

        Raises:
            ValueError: there is no image, no number for every class, another number than 1, 0 and -1, no class in any
                image, or (unless ``unlabelled``) an image of which nothing is known.
        """
        check_some(self.name, len(self))
        if self.targets.shape != (len(self), self.num_classes) or self.targets.dtype != torch.int8:
            raise ValueError(
                f"labels of {self.name} must be int8 of shape ({len(self)}, {self.num_classes}), got "
                f"{self.targets.dtype} {tuple(self.targets.shape)}. Give a number for every class of every image"
            )
        wrong = (self.targets < _UNKNOWN) | (self.targets > _THERE)
        if wrong.any():
            raise ValueError(
                f"labels of {self.name} must be 1 (there), 0 (not there) or -1 (not known), got "
                f"{int(self.targets[wrong][0])}. Mend the labels"
            )
        if not (self.targets == _THERE).any():
            raise ValueError(
                f"labels of {self.name} must have a class in some image, got none in all {len(self)}. Check the table"
            )
        nothing = (self.targets == _UNKNOWN).all(dim=1).nonzero()
        if len(nothing) and not unlabelled:
            raise ValueError(
                f"labels of {self.name} must be known in part at least, got none for image "
                f"{int(self.index[nothing[0]])}, the first of {len(nothing)} such. Label them or take them out"
            )
        return self


def from_names(
    rows: Rows, column: str, separator: str | None, path: Path
) -> tuple[list[str], dict[str, Tensor]]:
    """Returns the classes and the targets of every table, from rows that list an image's classes.

    Classes are names in sorted order, or class numbers if all are whole numbers. Whatever is not listed is not there.
    A row without a list (an empty cell, ``null``) says nothing of its image; an empty list, or a lone separator, that
    none of the classes is there.

    Args:
        rows: of every table.
        column: that holds a list of names, or names joined by ``separator``.
        separator: likewise; ``None``: lists only.
        path: of the training table, for messages.

    Raises:
        ValueError: a cell is neither, no image has a class, or a table names a class that ``train`` does not.
    """
    lists = {
        option: [_names(row, column, separator, f"{option} row {i}") for i, row in enumerate(found, start=1)]
        for option, found in rows.items()
    }
    found = {name for names in lists["train"] for name in names or ()}
    if are_numbers(found):
        found = {as_number(name) for name in found}
        lists = {
            option: [None if names is None else [as_number(name) for name in names] for names in rows_of]
            for option, rows_of in lists.items()
        }
    if not found:
        raise ValueError(
            f"labels of {path} must have a class in some image, got none. Check data.label_column"
        )
    numeric = are_numbers(found)
    classes = list(numbered(max(map(int, found)), str(path))) if numeric else sorted(found)
    numbers, targets = {name: i for i, name in enumerate(classes)}, {}
    for option, listed in lists.items():
        table = torch.full((len(listed), len(classes)), _ABSENT, dtype=torch.int8)
        for i, names in enumerate(listed):
            if names is None:
                table[i] = _UNKNOWN
                continue
            for name in names:
                if name not in numbers:
                    raise ValueError(
                        f"labels of data.{option} must be among the classes of {path}, got {name!r} in row {i + 1}. "
                        "Correct the row or take it out"
                    )
                table[i, numbers[name]] = _THERE
        targets[option] = table
    return classes, targets


def from_numbers(lists: Numbers, num_classes: int, name: str) -> Tensor:
    """Returns the targets of images whose classes are listed by their numbers.

    Raises:
        ValueError: a number is that of no class.
    """
    targets = torch.full((len(lists), num_classes), _ABSENT, dtype=torch.int8)
    for row, numbers in enumerate(lists):
        if numbers is None:
            targets[row] = _UNKNOWN
            continue
        wrong = [number for number in numbers if number is None or not 0 <= number < num_classes]
        if wrong:
            raise ValueError(
                f"labels of {name} must be class numbers from 0 to {num_classes - 1}, got {wrong[0]} in row {row}. "
                "Correct the row"
            )
        targets[row, list(numbers)] = _THERE
    return targets


def from_columns(rows: Rows, columns: Sequence[str]) -> tuple[list[str], dict[str, Tensor]]:
    """Returns the classes, one a column, and the targets of every table: cells of 1, 0, or empty (not known).

    Raises:
        ValueError: a column is missing or named twice, or a cell holds something else.
    """
    if len(set(columns)) < len(columns):
        raise ValueError(
            f"data.label_columns must name each column once, got {', '.join(columns)}. Correct it"
        )
    targets = {}
    for option, found in rows.items():
        values = [
            [_cell(row, column, f"{option} row {i}") for column in columns]
            for i, row in enumerate(found, start=1)
        ]
        targets[option] = torch.tensor(values, dtype=torch.int8).view(len(found), len(columns))
    return list(columns), targets


def _names(row: Mapping[str, Any], column: str, separator: str | None, where: str) -> list[str] | None:
    value = row.get(column)
    if isinstance(value, list):
        return [str(name).strip() for name in value]
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if separator is None:
        raise ValueError(
            f"data.{where} must hold a list of classes in {column!r} like other rows, got {text!r}. "
            "Make it a list, or set data.label_separator"
        )
    return [name.strip() for name in text.split(separator) if name.strip()]


def are_numbers(labels: Iterable[str]) -> bool:
    """Returns whether all labels are whole numbers; as one of several names ``01`` may be a name, too."""
    return all(_NUMBER.fullmatch(label) for label in labels)


def as_number(label: str) -> str:
    """Returns a whole number as such, ``2`` for ``2.0`` (as pandas writes it beside gaps) and ``002``, or the label."""
    return str(int(label.partition(".")[0])) if _NUMBER.fullmatch(label) else label


def _cell(row: Mapping[str, Any], column: str, where: str) -> int:
    if column not in row:
        raise ValueError(
            f"data.{where} must have a column {column!r}, got {', '.join(map(str, row))}. Correct data.label_columns"
        )
    value = row[column]
    text = "" if value is None else str(value).strip().lower()
    if text not in _CELLS:
        raise ValueError(
            f"data.{where} must hold 1, 0 or nothing (not known) in {column!r}, got {value!r}. Correct the row"
        )
    return _CELLS[text]
