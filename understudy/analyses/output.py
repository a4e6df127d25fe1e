"""Findings -> JSON, CSV, figures, and one page of all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.analyses.contract import Analysis, Finding, Sheet, Value
from understudy.files import write_atomic, write_json, write_text
from understudy.report.page import render
from understudy.report.plots import Drawn, files, inline
from understudy.report.tables import Cell, Column, Table, general
from understudy.report.text_tables import csv_cell

FORMAT = 1
MOST_ROWS, MOST_COLUMNS = 200, 16
"""Longer tables are cut on the page, wider ones (a matrix of classes) left out; the CSV files have everything."""


def write_finding(
    out: Path, name: str, analysis: Analysis, finding: Finding, about: Mapping[str, Any]
) -> None:
    """Writes ``NAME.json``, ``NAME-TABLE.csv`` for every table, ``NAME-FIGURE.svg`` and ``.png`` for every figure."""
    for plot in finding.plots:
        vector, pixels = files(plot)
        for suffix, content in (("svg", vector), ("png", pixels)):
            write_atomic(out / f"{name}-{plot.name}.{suffix}", lambda file, c=content: file.write(c))
    for title, sheet in finding.sheets.items():
        write_text(out / f"{name}-{title}.csv", as_csv(sheet))
    write_json(
        out / f"{name}.json",
        {
            "format": FORMAT,
            "analysis": name,
            "about": analysis.about,
            "source": analysis.source,
            **about,
            "numbers": dict(finding.numbers),
            "tables": {title: _as_json(sheet) for title, sheet in finding.sheets.items()},
            "figures": [{"title": plot.title, "file": f"{name}-{plot.name}.svg"} for plot in finding.plots],
            "notes": list(finding.notes),
        },
    )  # last: where it stands, the files it names stand


def write_page(
    out: Path,
    title: str,
    analyses: Mapping[str, Analysis],
    findings: Mapping[str, Finding],
    refused: Mapping[str, str],
) -> Path:
    """Writes ``index.html``: every finding, and what was left out and why. Returns its path."""
    sections = [_section(name, analyses[name], finding) for name, finding in findings.items()]
    left_out = Table(
        "Left out",
        (Column("Analysis", numeric=False), Column("It must have", numeric=False)),
        tuple((Cell(name), Cell(reason)) for name, reason in refused.items()),
    )
    page = render(
        "analysis.html", {"title": title, "sections": sections, "left_out": left_out if refused else None}
    )
    path = out / "index.html"
    write_text(path, page.encode("utf-8", errors="replace").decode("utf-8"))
    return path


def as_csv(sheet: Sheet) -> str:
    """Returns a table as CSV; what is no number (NaN, ``None``) is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(sheet.columns)
    writer.writerows([[_csv_cell(value) for value in row] for row in sheet.rows])
    return file.getvalue()


def _csv_cell(value: Value) -> str:
    if value is None or value != value:
        return ""
    return csv_cell(value) if isinstance(value, str) else repr(value)


def _as_json(sheet: Sheet) -> dict[str, Any]:
    return {"columns": list(sheet.columns), "rows": [list(row) for row in sheet.rows]}


def _section(name: str, analysis: Analysis, finding: Finding) -> dict[str, Any]:
    return {
        "name": name,
        "about": analysis.about,
        "source": analysis.source,
        "facts": [(key, _cell(value).text) for key, value in finding.numbers.items() if "/" not in key],
        "numbers": _numbers(name, finding.numbers),
        "pictures": [_picture(name, plot) for plot in finding.plots],
        "tables": [
            _table(name, title, sheet)
            for title, sheet in finding.sheets.items()
            if len(sheet.columns) <= MOST_COLUMNS
        ],
        "notes": finding.notes,
    }


def _numbers(name: str, numbers: Mapping[str, float]) -> Table | None:
    """Returns the numbers ``WHO/WHAT`` as a table with a column each; ``None`` if there are none."""
    split = {tuple(key.split("/", 1)): value for key, value in numbers.items() if "/" in key}
    if not split:
        return None
    who, what = (list(dict.fromkeys(key[i] for key in split)) for i in (0, 1))
    missing = Cell("–")
    return Table(
        f"{name}: numbers",
        (Column("Number", numeric=False), *map(Column, who)),
        tuple((Cell(w), *(_cell(split[h, w]) if (h, w) in split else missing for h in who)) for w in what),
    )


def _picture(name: str, plot: Any) -> Drawn:
    return inline(plot, f"{name}-{plot.name}")


def _table(name: str, title: str, sheet: Sheet) -> Table:
    kinds = [_numeric([row[i] for row in sheet.rows]) for i in range(len(sheet.columns))]
    rows = tuple(tuple(_cell(value) for value in row) for row in sheet.rows[:MOST_ROWS])
    cut = f" (the first {MOST_ROWS} of {len(sheet.rows)} rows)" if len(sheet.rows) > MOST_ROWS else ""
    columns = tuple(
        Column(column.replace("_", " "), kind) for column, kind in zip(sheet.columns, kinds, strict=True)
    )
    return Table(f"{name}: {title}{cut}", columns, rows)


def _numeric(values: Sequence[Value]) -> bool:
    return bool(values) and not any(isinstance(value, str) for value in values)


def _cell(value: Value) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    if value is None or not np.isfinite(value):
        return Cell("–")
    return Cell(f"{value:,}" if isinstance(value, int) else general(value), float(value))


def summary_lines(findings: Mapping[str, Finding]) -> list[str]:
    """Returns every number as a line for a terminal."""
    return [
        f"{name:<14} {key:<34} {general(value)}"
        for name, finding in findings.items()
        for key, value in finding.numbers.items()
    ]
