"""Tables as values, and how numbers are said in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "–"
"""What stands where there is no number."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text, and the number it sorts by in a numeric column (``None`` sorts last)."""

    text: str
    value: float | None = None
    href: str = ""
    note: str = ""
    """A short remark, set small behind the text."""


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column."""

    title: str
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table with one header row; the first cell of every row names the row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def finite(value: float | None) -> bool:
    """Returns whether there is a number and it is neither NaN nor infinite."""
    return value is not None and math.isfinite(value)


def decimal(value: float | None, digits: int = 2) -> str:
    """Returns a number with a fixed count of decimals and a true minus sign.

    Example:
        >>> from understudy.report.tables import decimal
        >>> decimal(97.216), decimal(None), decimal(float("nan"))
        ('97.22', '–', 'not a number')
    """
    if value is None:
        return MISSING
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.{digits}f}" if abs(value) < 1e12 else f"{value:.3e}"
    return text.replace("-", "−")


def general(value: float | None) -> str:
    """Returns a number of unknown size with four significant digits.

    Example:
        >>> from understudy.report.tables import general
        >>> general(0.0005), general(1234567.0)
        ('0.0005', '1.235e+06')
    """
    return f"{value:.4g}".replace("-", "−") if value is not None and math.isfinite(value) else decimal(value)


def signed(value: float | None, digits: int = 2) -> str:
    """Returns a difference with its sign.

    Example:
        >>> from understudy.report.tables import signed
        >>> signed(0.5), signed(-0.5), signed(0.0)
        ('+0.50', '−0.50', '0.00')
    """
    text = decimal(value, digits)
    return f"+{text}" if value is not None and math.isfinite(value) and round(value, digits) > 0 else text


def duration(seconds: float | None) -> str:
    """Returns seconds in the units one would say.

    Example:
        >>> from understudy.report.tables import duration
        >>> duration(34.52), duration(185), duration(7260)
        ('34.5 s', '3 min 5 s', '2 h 1 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return decimal(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def number_cell(value: float | None, digits: int = 2, note: str = "") -> Cell:
    """Returns a cell that shows a number and sorts by it; NaN sorts with what is missing."""
    return Cell(decimal(value, digits), value if finite(value) else None, note=note)


def mapping_table(caption: str, mapping: Mapping[str, Any]) -> Table | None:
    """Returns a table of names and values, nested mappings flattened with dots; ``None`` if there is none."""
    rows = tuple((Cell(name), Cell(text)) for name, text in _flatten(mapping))
    return (
        Table(caption, (Column("Name", numeric=False), Column("Value", numeric=False)), rows)
        if rows
        else None
    )


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            rows.extend(_flatten(value, f"{prefix}{key}."))
        else:
            rows.append(
                (f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            )
    return rows
