"""What papers report, to stand beside what was measured here: by table, and for a pair of networks."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

ALONE, TEACHER = "student alone", "teacher"
"""The methods under which cells have the two networks trained on labels."""
_PAPERS = {"dhkd": "DHKD", "dkd": "DKD", "ijckd": "IJCKD", "kdpp": "KD++"}
_ACCURACIES = ("top1", "top5", "ap", "ap50", "ap75")


@dataclass(frozen=True, slots=True)
class Published:
    """One number of a paper."""

    value: float
    """Top-1 accuracy, or AP of a detection, in percent."""
    source: str
    """Paper and table, several where one quotes the other."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One printed result."""

    metric: str
    """``top1`` or ``top5``, or of a detection ``ap``, ``ap50`` or ``ap75``, in percent."""
    method: str
    setting: Mapping[str, Any] = field(default_factory=dict)
    """What an ablation varies; empty in a comparison."""
    value: float | None = None
    """``None``: the run had no result."""
    std: float | None = None
    collapsed_at_epoch: int | None = None
    """Why it had none."""
    doubtful: bool = False
    """Whether the paper printed another row's number here."""


def published(data: str, teacher: str, student: str) -> dict[str, tuple[Published, ...]]:
    """Returns what papers report for a data set and a pair, by preset; ``teacher`` and ``student alone`` among them.

    These are the comparisons of methods, at the settings that their papers chose; ablations are left out. The papers'
    budget is theirs (CIFAR-100: 240 epochs of batch 64), so these are numbers to look at, not to subtract.

    Args:
        data: name of the data set.
        teacher: the teacher's model; of ``torchvision/resnet34`` the last part counts.
        student: likewise.

    Returns:
        Name -> its numbers, several where tables disagree; empty for a pair that no paper has.

    Example:
        >>> from understudy.report.published import published
        >>> published("cifar100", "resnet32x4", "resnet8x4")["dhkd"]
        (Published(value=76.54, source='DHKD Table 1'),)
    """
    sources: dict[str, dict[float, list[str]]] = {}
    for table, content in _tables().items():
        if content["kind"] == "comparison" and content.get("dataset") == data:
            for cell in cells(table, teacher, student):
                if cell.metric in ("top1", "ap") and not cell.doubtful and cell.value is not None:
                    sources.setdefault(cell.method, {}).setdefault(cell.value, []).append(citation(table))
    return {
        name: tuple(Published(value, ", ".join(tables)) for value, tables in numbers.items())
        for name, numbers in sources.items()
    }


def cells(table: str, teacher: str, student: str) -> tuple[Cell, ...]:
    """Returns the accuracies that a table prints for a pair, in its order.

    Args:
        table: such as ``dkd.table6``; a table that has no such pair, or is not there, has no cells.
        teacher: the teacher's model; of ``torchvision/resnet34`` the last part counts, of a detector its backbone.
        student: likewise.
    """
    networks = tuple(name.rpartition("/")[2].removeprefix("fasterrcnn_") for name in (teacher, student))
    content = _tables().get(table, {})
    shared = {key: value for key, value in content.items() if key not in ("kind", "rows")}
    found: list[Cell] = []
    for row in ({**shared, **row} for row in content.get("rows", ())):
        if (row.get("teacher"), row.get("student")) == networks:
            found += _cells(content["kind"], row)
    return tuple(found)


def citation(table: str) -> str:
    """Returns a table as people cite it.

    Example:
        >>> from understudy.report.published import citation
        >>> citation("kdpp.table_b2"), citation("dkd.alpha"), citation("dhkd.fig6")
        ('KD++ Table B2', 'DKD section 4.1, alpha', 'DHKD Figure 6')
    """
    paper, _, name = table.partition(".")
    kind = re.fullmatch(r"(table|fig|appendix)_?(\w+)", name)
    if kind is None:
        return f"{_PAPERS.get(paper, paper)} section 4.1, {name}"
    words = {"table": "Table", "fig": "Figure", "appendix": "Appendix"}
    number = kind[2] if kind[2][0].isdigit() else kind[2].upper()
    return f"{_PAPERS.get(paper, paper)} {words[kind[1]]} {number}"


def _cells(kind: str, row: Mapping[str, Any]) -> list[Cell]:
    metric = row.get("metric", "top1")
    if metric not in _ACCURACIES:
        return []
    accuracies = {TEACHER: row.get("teacher_acc"), ALONE: row.get("student_acc")}
    found = [Cell(metric, name, value=value) for name, value in accuracies.items() if value is not None]
    if kind == "comparison":
        std, doubtful = row.get("std", {}), row.get("doubtful", ())
        found += [
            Cell(metric, name, value=value, std=std.get(name), doubtful=name in doubtful)
            for name, value in row["results"].items()
        ]
    else:
        value = row.get("value", row.get(metric))
        found.append(
            Cell(
                metric,
                row["method"],
                row.get("setting", {}),
                value,
                collapsed_at_epoch=row.get("collapsed_at_epoch"),
            )
        )
    return found


@functools.cache
def _tables() -> dict[str, Any]:
    text = resources.files("understudy.report").joinpath("published.yaml").read_text("utf-8")
    return yaml.safe_load(text)
