"""A table of a paper run anew: one study a row, every teacher once, and one summary beside the printed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table as RichTable
from rich.text import Text

from understudy.config import Config
from understudy.engine.console import Console
from understudy.engine.loop import stopped_by_signals
from understudy.files import locked, read_json, write_json, write_text
from understudy.job import finished
from understudy.metrics import summarise
from understudy.recipes import PREFIX as PREFIX
from understudy.recipes import Printed, Recipe, Row, departures, find_recipe
from understudy.report.folder import number
from understudy.report.published import Published, citation
from understudy.report.tables import finite
from understudy.report.text_tables import markdown
from understudy.run import train
from understudy.study import study

FILES = ("summary.json", "summary.md")
"""What is written into the output folder, beside a folder a row."""
_KEYS = {"top1": "test/acc1", "top5": "test/acc5", "ap": "test/ap", "ap50": "test/ap50", "ap75": "test/ap75"}
_WEIGHTS = (".safetensors", ".pt", ".pth")
_TEACHERS = "teachers"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A recipe that was run."""

    path: Path
    summary: dict[str, Any]
    """The content of ``summary.json``."""


def reproduce(
    name: str,
    *,
    scale: float = 1.0,
    all_images: bool = False,
    teachers: str | Path | None = None,
    workers: int = 1,
    quiet: bool = False,
    **overrides: Any,
) -> Reproduction:
    """Runs the rows of a recipe, each as a study in ``OUTPUT/ROW``, and sums them up beside the printed values.

    Every teacher without weights is trained once, into ``OUTPUT/teachers``. What is finished is taken as it is, what
    is begun goes on. After every row ``summary.json`` and ``summary.md`` are written, of all rows that are there.

    Args:
        name: ``recipe:dkd.table6`` for all rows, ``recipe:dkd.table6/resnet56-resnet20`` for one.
        scale: share of the epochs that is kept, and of the training images; said wherever results are shown.
        all_images: whether all training images are kept in spite of it.
        teachers: folder with ``MODEL.safetensors`` (or ``.pt``, ``.pth``) of teachers that need no training. Where a
            row trains its teacher on other images (noisy labels, AutoAugment), the name goes on with what sets them
            apart: ``resnet32x4-noise-0.1.safetensors``, as the folders in ``OUTPUT/teachers`` are called.
        workers: runs at once, as of a study.
        quiet: print nothing but the summary.
        overrides: dotted keys, on top of the scaled row. ``output`` is by default ``runs/NAME``.

    Returns:
        the folder, and the content of ``summary.json``.

    Raises:
        ValueError: there is no such recipe, nothing of it can be run, or a row's config is wrong.
        InterruptedRunError: asked to stop; the same command goes on.
    """
    recipe, wanted = find_recipe(name)
    folder = Path(str(overrides.pop("output", None) or _folder(recipe, scale)))
    every = recipe.rows(scale, images=not all_images, overrides=overrides)
    rows = [row for row in every if wanted in (None, row.name)]
    console = Console(quiet=quiet)
    todo = [row for row in rows if row.refusal is None]
    if not todo:
        raise ValueError(f"{recipe.name} cannot be run: {rows[0].refusal}. See understudy list recipes")
    for row in rows:
        if row.refusal is not None:
            console.say(f"{row.name} is left out: {row.refusal}")
    summary: dict[str, Any] = {}
    with locked(folder), stopped_by_signals():  # all rows: one signal is for all
        for row in todo:
            said = departures(recipe, scale, row.job(), overrides)
            given = _given(teachers, row)
            config = _with_teacher(row, folder, given, quiet)
            origin = "" if given is None else f"The teacher's weights were given ({given}). "
            study(
                config,
                workers=workers,
                quiet=quiet,
                title=_title(recipe, row, scale),
                remark=origin + _remark(recipe, said),
                known=_known(row, said),
            )
            summary = _summary(recipe, every, folder, scale, overrides)
            write_json(folder / "summary.json", summary)
            write_text(folder / "summary.md", _markdown(summary))
    _show(summary)
    print(f"summary: {folder / 'summary.md'}")
    return Reproduction(folder, summary)


def _folder(recipe: Recipe, scale: float) -> str:
    return f"runs/{recipe.name}" + ("" if scale == 1 else f"-scaled-{scale:g}")


def _title(recipe: Recipe, row: Row, scale: float) -> str:
    scaled = "" if scale == 1 else f", scaled by {scale:g}: not the paper's budget"
    return f"{citation(recipe.name)}, {row.name}{scaled}"


def _remark(recipe: Recipe, said: Sequence[str]) -> str:
    sentences = [f"Recipe {recipe.name}.", *(f"{line[0].upper()}{line[1:]}." for line in said)]
    return " ".join(sentences)


def _with_teacher(row: Row, folder: Path, given: Path | None, quiet: bool) -> Config:
    """Returns a row's study with its folder and its teacher's weights, which are trained if nobody has them."""
    config = row.job().replaced(output=str(folder / row.name))
    assert config.teacher is not None
    if config.teacher.tables is None:
        config = config.replaced(**{"teacher.tables": str(folder / "tables")})
    job = row.teacher_job()
    if job is None:
        return config
    if given is None:
        own = job.replaced(output=str(folder / _TEACHERS / row.teacher_name))
        if finished(own) is None:
            train(own, quiet=quiet)
        given = Path(own.output) / "student.safetensors"
    return config.replaced(**{"teacher.weights": str(given), "teacher.pretrained": False})


def _given(teachers: str | Path | None, row: Row) -> Path | None:
    """Returns the file of a row's teacher, if it needs one and it is there."""
    if teachers is None or row.teacher_job() is None:
        return None
    if not Path(teachers).is_dir():
        raise ValueError(f"--teachers must be a folder, got {teachers}. Put MODEL.safetensors there")
    return next((p for end in _WEIGHTS if (p := Path(teachers) / f"{row.teacher_name}{end}").is_file()), None)


def _known(row: Row, said: Sequence[str]) -> dict[str, list[Published]]:
    """Returns the printed accuracies of every arm, each with what sets the run apart from it."""
    warning = f" ({'; '.join(line.partition(' (')[0] for line in said)})" if said else ""
    return {name: _accuracies(printed, warning) for name, printed in row.printed.items()}


def _accuracies(printed: Sequence[Printed], warning: str) -> list[Published]:
    """Returns the top-1 values (of objects the AP) of an arm, each once, without those that are no target."""
    kept = [p for p in printed if p.cell.metric in ("top1", "ap") and not p.doubtful]
    values = {p.cell.value: p.table for p in reversed(kept)}
    return [Published(v, citation(table) + warning) for v, table in values.items() if v is not None]


def _summary(
    recipe: Recipe, rows: Sequence[Row], folder: Path, scale: float, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what ``summary.json`` holds: every row that is there, was made like this one, and how it compares."""
    lines: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    said: list[str] = []
    for row in rows:
        if row.config is None:
            missing[row.name] = f"cannot be run: {row.refusal}"
            continue
        said = said or departures(recipe, scale, row.config, overrides)
        found = _study_of(recipe, row, folder, scale, overrides)
        if found is None:
            missing[row.name] = "not run"
        else:
            lines += _lines(row, found, folder / row.name)
    return {
        "format": 1,
        "recipe": recipe.name,
        "title": recipe.title + ("" if scale == 1 else f", scaled by {scale:g}: not the paper's budget"),
        "scale": scale,
        "departures": said,
        "notes": recipe.notes,
        "left_out": recipe.table.left_out,
        "missing": missing,
        "lines": lines,
    }


def _study_of(
    recipe: Recipe, row: Row, folder: Path, scale: float, overrides: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Returns a row's ``study.json`` if it was made at this scale and with these changes."""
    path = folder / row.name / "study.json"
    if not path.is_file():
        return None
    found = read_json(path)
    remark = _remark(recipe, departures(recipe, scale, row.job(), overrides))
    same = found.get("title") == _title(recipe, row, scale) and str(found.get("what")).endswith(remark)
    return found if same else None


def _lines(row: Row, found: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    return [
        _line(row, arm, metric, folder)
        for arm in found["arms"]
        for metric in dict.fromkeys(
            [_first(found), *(p.cell.metric for p in row.printed.get(arm["name"], ()))]
        )
    ]


def _first(found: Mapping[str, Any]) -> str:
    """Returns what a study's runs are compared by, as papers call it."""
    return next((name for name, key in _KEYS.items() if key == found.get("metric")), "top1")


def _line(row: Row, arm: Mapping[str, Any], metric: str, folder: Path) -> dict[str, Any]:
    """Returns what was measured for an arm beside what is printed for it."""
    measured = {str(run["seed"]): _score(run, metric, folder) for run in arm["runs"]}
    scores = {seed: score for seed, score in measured.items() if score is not None and finite(score)}
    ours = summarise(list(scores.values())) if scores else None
    printed = next((p for p in row.printed.get(arm["name"], ()) if p.cell.metric == metric), None)
    value = None if printed is None else printed.cell.value
    return {
        "row": row.name,
        "teacher": row.teacher,
        "student": row.student,
        "arm": arm["name"],
        "metric": metric,
        "scores": scores,
        "runs": len(arm["runs"]),
        "mean": None if ours is None else ours.mean,
        "std": None if ours is None else ours.std,
        "published": value,
        "published_std": None if printed is None else printed.cell.std,
        "table": None if printed is None else printed.table,
        "difference": None if ours is None or value is None else ours.mean - value,
        "note": _note(printed, len(arm["runs"]) - len(scores)),
    }


def _score(run: Mapping[str, Any], metric: str, folder: Path) -> float | None:
    if _KEYS[metric] in run:
        return number(run, _KEYS[metric])
    result = folder / str(run.get("path", "")) / "result.json"
    return number(read_json(result).get("last", {}), _KEYS[metric]) if result.is_file() else None


def _note(printed: Printed | None, lost: int) -> str:
    said = [f"{lost} without a score"] if lost else []
    if printed is not None and printed.cell.collapsed_at_epoch is not None:
        said.append(f"published: collapsed in epoch {printed.cell.collapsed_at_epoch}")
    if printed is not None and printed.doubtful:
        said.append("the printed value is doubtful")
    return "; ".join(said)


def _cells(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    heads = ["row", "arm", "metric", "ours", "n", "published", "difference", "table", "note"]
    rows = [
        [
            line["row"],
            line["arm"],
            line["metric"],
            _spread(line["mean"], line["std"]),
            str(len(line["scores"])),
            _spread(line["published"], line["published_std"]),
            "" if line["difference"] is None else f"{line['difference']:+.2f}".replace("-", "−"),
            line["table"] or "",
            line["note"],
        ]
        for line in summary["lines"]
    ]
    kept = [i for i, head in enumerate(heads) if head != "note" or any(row[i] for row in rows)]
    return [heads[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _spread(mean: float | None, std: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")


def _said(summary: Mapping[str, Any]) -> list[str]:
    """Returns everything that must be known to read the table."""
    return [
        *(f"Warning: {line}." for line in summary["departures"]),
        *summary["notes"],
        *(f"Left out: {name}: {reason}." for name, reason in summary["left_out"].items()),
        *(f"{name}: {reason}." for name, reason in summary["missing"].items()),
    ]


def _markdown(summary: Mapping[str, Any]) -> str:
    heads, rows = _cells(summary)
    about = (
        "ours: the test score in percent after the last epoch, mean ± sample standard deviation over n seeds, nothing "
        "chosen on test. published: as the table prints it. difference: ours minus published, in points."
    )
    return markdown(heads, rows, {"title": summary["title"], "verdicts": _said(summary), "what": about})


def _show(summary: Mapping[str, Any]) -> None:
    console = RichConsole(highlight=False)
    heads, rows = _cells(summary)
    same = {
        head
        for i, head in enumerate(heads)
        if head in ("metric", "table") and len({r[i] for r in rows} - {""}) < 2
    }
    grid = RichTable(title=Text(summary["title"]), title_justify="left")
    kept = [i for i, head in enumerate(heads) if head not in same]
    for i in kept:
        numeric = heads[i] in ("ours", "n", "published", "difference")
        grid.add_column(heads[i], justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(row[i]) for i in kept))
    console.print(grid)
    for line in _said(summary):
        console.print(line, markup=False, soft_wrap=True)
