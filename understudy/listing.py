"""What there is: methods, presets, models, data sets, analyses, recipes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from understudy.analyses import ANALYSES
from understudy.costs import BATCH_SIZE, NUM_IMAGES, Cost, PairCosts, measure
from understudy.data import DATASETS
from understudy.methods import METHODS
from understudy.methods.method import Method
from understudy.methods.presets import PRESETS
from understudy.models import detector_names, model_names, segmenter_names
from understudy.recipes import find_recipe, images_trained
from understudy.recipes.overview import IMAGES, about_recipe, arms_of, count_words, recipe_table
from understudy.words import did_you_mean


def show(
    what: str | None = None,
    *,
    name: str | None = None,
    student: str | None = None,
    teacher: str | None = None,
    num_classes: int = 100,
    size: int = 32,
) -> None:
    """Prints one list, or all of them.

    Args:
        what: a key of ``LISTS``; ``None`` is all.
        name: of a recipe, which is shown row by row (``recipes`` only).
        student: with ``teacher`` a pair, on which the costs of all methods are measured (``methods`` only).
        teacher: likewise.
        num_classes: of the pair.
        size: height and width of the pair's images, in pixels.

    Raises:
        ValueError: there is no such list, model or recipe; a pair is not whole or not asked of ``methods``; a name is
            not asked of ``recipes``.
    """
    if what is not None and what not in LISTS:
        raise ValueError(f"list must be given a list, got {what!r}. {did_you_mean(what, LISTS)}")
    console = Console(highlight=False)
    if name is not None:
        if what != "recipes":
            raise ValueError(
                f"a name must be given to the list of recipes, got {name!r} for {what}. Leave it out"
            )
        console.print(_recipe(name))
        return
    if student is not None or teacher is not None:
        if what != "methods" or student is None or teacher is None:
            raise ValueError(
                f"a pair must be a student and a teacher for the list of methods, got student {student}, teacher "
                f"{teacher} and list {what}. Write: list methods --student NAME --teacher NAME"
            )
        costs = measure(student, teacher, num_classes, size)
        title = f"methods for {student} under {teacher}, {num_classes} classes, {size}×{size} pixels"
        console.print(_costs(title, costs))
        return
    for name, table in LISTS.items():
        if what in (None, name):
            console.print(table())


def _methods() -> RenderableType:
    table = _table("methods (terms of losses:)", "name", "paper; what it sees of student / teacher; settings")
    for name, method in METHODS.items():
        settings = ", ".join(f"{f.name} {as_written(f.default)}" for f in dataclasses.fields(method))
        table.add_row(name, _about(method, settings))
    hint = "What each adds and costs: understudy list methods --student NAME --teacher NAME"
    return Group(table, Text(hint), "")


def _costs(title: str, costs: PairCosts) -> RenderableType:
    heading = "paper; what it sees of student / teacher"
    table = _table(title, "name", "trains", "keeps", "step", heading)
    for column in table.columns[1:4]:
        column.justify = "right"
        column.no_wrap = True
    for name, method in METHODS.items():
        cost = costs.methods[name]
        if isinstance(cost, Cost):
            trains = f"{cost.parameters:,}" if cost.parameters else "–"
            table.add_row(name, trains, size_words(cost.state), f"{cost.step:.2f}", _about(method))
        else:
            table.add_row(name, "–", "–", "–", _about(method, f"refuses this pair: {cost}"))
    notes = (
        f"trains: parameters beside the student's {costs.student_parameters:,}.",
        f"keeps: buffers and frozen layers, for {NUM_IMAGES:,} training images.",
        "step: FLOPs of a step with cross-entropy and the method, forward and backward; 1 is a step with "
        f"cross-entropy alone, {costs.student_step / 1e9:.3g} GFLOPs an image. Wherever the teacher is seen, its "
        f"forward pass comes on top: {costs.teacher_forward / 1e9:.3g} GFLOPs an image. Convolutions and matrix "
        f"products are counted, two FLOPs a multiply-add, in a batch of {BATCH_SIZE}.",
    )
    return Group(table, *(Text(note) for note in notes))


def _about(method: type[Method], *more: str) -> Text:
    """Returns the paper and, below it, the roles it sees and whatever else there is to say."""
    about = Text(method.paper)
    for line in (f"sees {seen(method)}", *filter(None, more)):
        about.append(f"\n{line}", style="dim")
    return about


def seen(method: type[Method]) -> str:
    """Returns the roles a method reads of student and teacher, settings at their defaults."""
    teacher = ", ".join(method.teacher_taps) or "–"
    if method.prepare_taps:
        teacher = f"{', '.join(method.prepare_taps)} before training"
    return f"{', '.join(method().student_roles)} / {teacher}"


def size_words(num_bytes: int) -> str:
    """Returns a number of bytes in MB or kB, ``–`` for none."""
    if num_bytes == 0:
        return "–"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{max(num_bytes / 1e3, 0.1):.1f} kB"


def as_written(value: Any) -> str:
    """Returns a setting's default as a config has it."""
    return json.dumps(value) if value is None or isinstance(value, (bool, tuple)) else str(value)


def _presets() -> RenderableType:
    table = _table("presets (method:)", "name", "terms", "align", "source")
    for name, preset in PRESETS.items():
        table.add_row(
            name, " + ".join(str(term["name"]) for term in preset.losses), preset.align, preset.source
        )
    return table


def _models() -> RenderableType:
    table = _table("models (model:)", "name")
    table.add_row(", ".join(model_names()))
    table.add_row("of pixels (segmentation): " + ", ".join(segmenter_names()))
    table.add_row("of objects (detection): " + ", ".join(detector_names()))
    table.add_row("torchvision/NAME, timm/NAME, hf/NAME, package.module:factory")
    return table


def _data() -> RenderableType:
    table = _table("data sets (data: {name: ...})", "name", "what")
    for name, reader in DATASETS.items():
        first_line = (reader.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, Text(first_line.removeprefix("Returns ").replace("``", "")))
    return table


def _analyses() -> RenderableType:
    table = _table(
        "analyses (understudy analyze RUN --only NAME)", "name", "what; source; cost; what it needs"
    )
    for name, analysis in ANALYSES.items():
        needs = ", ".join(analysis.needs) if analysis.of == "run" else "a study folder"
        asked = "; only where it is named" if analysis.asked_only else ""
        about = f"{analysis.about}\n{analysis.source}\n{analysis.cost}{asked}; needs {needs}"
        table.add_row(name, Text(about))
    return table


def _recipes() -> RenderableType:
    table = _table("recipes (understudy study recipe:NAME)", "name", "rows", "images", "needs", "what")
    for entry in recipe_table():
        text = Text(entry.title)
        if entry.refusal:
            text.append(f"\ncannot be run: {entry.refusal}", style="dim")
        table.add_row(entry.name, f"{entry.rows}", entry.images, entry.needs, text)
    return Group(table, Text(IMAGES), "")


def _recipe(name: str) -> RenderableType:
    """Returns a recipe row by row, its budget and what it needs."""
    recipe, wanted = find_recipe(name)
    rows = [row for row in recipe.rows() if wanted in (None, row.name)]
    table = _table(recipe.title, "row", "arms", "images")
    for row in rows:
        if row.config is None:
            table.add_row(row.name, Text(f"cannot be run: {row.refusal}"), "–")
            continue
        arms = ", ".join(arm.name for arm in arms_of(row.config))
        table.add_row(row.name, Text(arms), count_words(images_trained(row.config, recipe.budget.images)))
    return Group(table, *(Text(line) for line in about_recipe(recipe, rows)), "")


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", show_header=len(columns) > 1, box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "name" and len(columns) > 1)
    return table


LISTS: dict[str, Callable[[], RenderableType]] = {
    "methods": _methods,
    "presets": _presets,
    "models": _models,
    "data": _data,
    "analyses": _analyses,
    "recipes": _recipes,
}
