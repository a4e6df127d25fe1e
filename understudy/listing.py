"""What there is: methods, presets, models, data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from understudy.data import DATASETS
from understudy.methods import METHODS
from understudy.methods.presets import PRESETS
from understudy.models import model_names
from understudy.nearest import did_you_mean


def show(what: str | None = None) -> None:
    """Prints one list, or all of them.

    Raises:
        ValueError: there is no such list.
    """
    if what is not None and what not in LISTS:
        raise ValueError(f"list must be given a list, got {what!r}. {did_you_mean(what, LISTS)}")
    console = Console(highlight=False)
    for name, table in LISTS.items():
        if what in (None, name):
            console.print(table())


def _methods() -> Table:
    table = _table("methods (terms of losses:)", "name", "settings", "sees of student / teacher", "paper")
    for name, method in METHODS.items():
        settings = ", ".join(f"{f.name} {f.default}" for f in dataclasses.fields(method))
        seen = f"{', '.join(method.student_taps)} / {', '.join(method.teacher_taps) or '–'}"
        table.add_row(name, settings or "–", seen, method.paper)
    return table


def _presets() -> Table:
    table = _table("presets (method:)", "name", "terms", "align", "source")
    for name, preset in PRESETS.items():
        table.add_row(
            name, " + ".join(str(term["name"]) for term in preset.losses), preset.align, preset.source
        )
    return table


def _models() -> Table:
    table = _table("models (model:)", "name")
    table.add_row(", ".join(model_names()))
    table.add_row("torchvision/NAME, timm/NAME, package.module:factory")
    return table


def _data() -> Table:
    table = _table("data sets (data: {name: ...})", "name", "what")
    for name, reader in DATASETS.items():
        table.add_row(name, (reader.__doc__ or "").strip().splitlines()[0])
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=len(columns) > 1)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


LISTS: dict[str, Callable[[], Table]] = {
    "methods": _methods,
    "presets": _presets,
    "models": _models,
    "data": _data,
}
