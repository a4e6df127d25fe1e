"""What the page of a study says."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from understudy.metrics import Difference
from understudy.report.confusion import class_accuracy
from understudy.report.examples import Example, example_note, legend, read_examples
from understudy.report.figures import (
    Interval,
    Line,
    Picture,
    Row,
    dot_figure,
    interval_figure,
    line_figure,
)
from understudy.report.folder import RunFolder, StudyFolder, class_names, items, number, string
from understudy.report.mistakes import read_mistakes
from understudy.report.summary import ALONE, KD, TEACHER, ArmLine, arm_lines, scores_of
from understudy.report.tables import (
    MISSING,
    Cell,
    Column,
    Table,
    decimal,
    duration,
    finite,
    mapping_table,
    number_cell,
)
from understudy.report.text_tables import interval, published_text, wins
from understudy.tasks import TASKS, task_named

MOST_IMAGES = 12
"""So many misclassified images at most."""


def study_context(folder: StudyFolder) -> dict[str, Any]:
    """Returns what ``study.html`` needs."""
    study = folder.study
    metric = string(study, "metric") or "test/acc1"
    arms = items(study, "arms")
    lines = arm_lines(study)
    verdicts = study.get("verdicts")
    runs = [run for arm in arms for run in items(arm, "runs")]
    scores = [number(run, metric) for run in runs]
    return {
        "title": string(study, "title") or folder.path.resolve().name,
        "what": string(study, "what"),
        "verdicts": [str(verdict) for verdict in verdicts] if isinstance(verdicts, list) else [],
        "metric": metric_title(metric),
        "results": _results(lines, metric),
        "sources": _sources(lines),
        "gaps": interval_figure("gaps", f"Points above {ALONE}, with the 95 % interval", _gap_rows(lines)),
        "per_class": _per_class(study, arms, folder),
        "still": _still_wrong(_best_method(lines), arms, folder),
        "missing": sum(1 for score in scores if not finite(score)),
        "facts": _facts(study, arms),
        "dots": dot_figure("dots", metric_title(metric), _dot_rows(arms, metric)),
        "figures": _curves(arms, folder),
        "runs_table": _runs_table(arms, metric, folder.path),
        "methods": [(string(arm, "name"), string(arm, "method")) for arm in arms if arm.get("method")],
        "config": string(study, "config"),
        "environment_table": mapping_table("Environment of the first run", _first_environment(folder)),
        "differing": _differing(folder),
    }


def metric_title(metric: str) -> str:
    """Returns what a metric's key means, in words.

    Example:
        >>> from understudy.report.study_page import metric_title
        >>> metric_title("test/acc1"), metric_title("val/map"), metric_title("test/other")
        ('Test top-1 accuracy, %', 'Held-out mAP, %', 'test/other')
    """
    titles = {name: title for task in TASKS.values() for name, title in task.titles.items()}
    parts = {"test": "Test", "val": "Held-out"}
    part, _, score = metric.partition("/")
    if part not in parts or score not in titles:
        return metric
    return f"{parts[part]} {titles[score]}{' accuracy' * titles[score].startswith('top-')}, %"


def _mean_and_spread(line: ArmLine) -> Cell:
    """Returns mean ± sample standard deviation; the mean alone for a single value."""
    if line.summary is None:
        return Cell(MISSING)
    spread = "" if line.summary.std is None else f" ± {decimal(line.summary.std)}"
    return Cell(decimal(line.summary.mean) + spread, line.summary.mean)


def _gap(gap: Difference | None) -> Cell:
    """Returns a difference with its interval; a note says what it rests on if not on pairs of seeds."""
    if gap is None:
        return Cell(MISSING)
    note = "" if gap.kind == "paired" else "of means"
    return Cell(interval(gap), gap.mean, note=note)


def _results(lines: list[ArmLine], metric: str) -> Table:
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Arm", numeric=False), [Cell(line.name) for line in lines]),
        (Column("Mean ±\u00a0std"), [_mean_and_spread(line) for line in lines]),
        (Column(f"Minus {ALONE}"), [_gap(line.to_alone) for line in lines]),
        (Column("Seeds won"), [Cell(wins(line.to_alone) or MISSING, _wins(line.to_alone)) for line in lines]),
        (Column(f"Minus {KD}"), [_gap(line.to_kd) for line in lines]),
        (Column("n"), [_count_of(line) for line in lines]),
        (
            Column("Published"),
            [Cell(published_text(line) or MISSING, _first_published(line)) for line in lines],
        ),
        (Column("Time a run"), [Cell(duration(line.seconds), line.seconds) for line in lines]),
        (Column("Peak memory, MiB"), [number_cell(line.memory, digits=0) for line in lines]),
        (Column("Parameters"), [number_cell(line.parameters, digits=0) for line in lines]),
        (Column("Extra in training"), [number_cell(line.extra, digits=0) for line in lines]),
        (Column("Model", numeric=False), [Cell(line.model or MISSING) for line in lines]),
    ]
    kept = [(column, cells) for column, cells in columns if any(cell.text != MISSING for cell in cells)]
    rows = tuple(tuple(cells[i] for _, cells in kept) for i in range(len(lines)))
    caption = f"{metric_title(metric)}; differences seed by seed with their 95 % interval"
    return Table(caption, tuple(column for column, _ in kept), rows)


def _wins(gap: Difference | None) -> float | None:
    return None if gap is None else gap.wins


def _count_of(line: ArmLine) -> Cell:
    count = len(line.scores)
    return Cell(f"{count}" if count == line.planned else f"{count} of {line.planned}", count)


def _first_published(line: ArmLine) -> float | None:
    return line.published[0].value if line.published else None


def _sources(lines: list[ArmLine]) -> list[str]:
    """Returns where the published numbers stand, a sentence an arm."""
    return [
        f"{line.name}: " + "; ".join(f"{entry.value:.2f} in {entry.source}" for entry in line.published)
        for line in lines
        if line.published
    ]


def _gap_rows(lines: list[ArmLine]) -> list[Interval]:
    return [
        Interval(line.name, i, gap.mean, gap.half_width, interval(gap))
        for i, line in enumerate(lines)
        if (gap := line.to_alone) is not None
    ]


def _best_method(lines: list[ArmLine]) -> ArmLine | None:
    """Returns the student with the highest mean, ``None`` if none has a score."""
    scored = [line for line in lines if line.mean is not None and line.name != TEACHER]
    return max(scored, key=lambda line: line.mean or 0.0, default=None)


def _still_wrong(best: ArmLine | None, arms: list[Mapping[str, Any]], folder: StudyFolder) -> dict[str, Any]:
    """Returns images that the best arm's first run gets wrong."""
    runs = [
        folder.runs[path]
        for arm in arms
        if best is not None and string(arm, "name") == best.name
        for run in items(arm, "runs")
        if (path := string(run, "path")) in folder.runs
    ]
    if not runs:
        return {"wrong": 0, "mistakes": [], "of": "", "examples": [], "legend": [], "note": ""}
    wrong, mistakes = read_mistakes(runs[0].path, class_names(runs[0].result))
    return {
        "wrong": wrong,
        "mistakes": mistakes[:MOST_IMAGES],
        "of": best.name if best else "",
        "examples": _examples(runs[0], arms, folder),
        "legend": legend(class_names(runs[0].result)),
        "note": example_note(runs[0].result),
    }


def _per_class(study: Mapping[str, Any], arms: list[Mapping[str, Any]], folder: StudyFolder) -> Table | None:
    """Returns the accuracy of every class by arm, mean over the seeds; ``None`` if no run says it."""
    columns: list[tuple[str, list[float | None]]] = []
    names: list[str] = []
    task = task_named(None)
    for arm in arms:
        results = [
            folder.runs[path].result
            for run in items(arm, "runs")
            if (path := string(run, "path")) in folder.runs
        ]
        found = [class_accuracy(result) for result in results]
        if not found or not found[0] or len({len(values) for values in found}) > 1:
            continue
        if columns and len(columns[0][1]) != len(found[0]):
            continue
        names, task = names or class_names(results[0]), task_named(results[0].get("task"))
        columns.append((string(arm, "name"), [_mean_of(values) for values in zip(*found, strict=True)]))
    if not columns:
        return None
    rows = tuple(
        (
            Cell(names[c] if c < len(names) else f"class {c}"),
            *(number_cell(values[c], digits=1) for _, values in columns),
        )
        for c in range(len(columns[0][1]))
    )
    heads = (Column("Class", numeric=False), *(Column(name) for name, _ in columns))
    measure = {"class_iou": "IoU", "class_ap": "average precision"}.get(task.per_class, "accuracy")
    return Table(f"Test {measure} by class in percent, mean over the seeds", heads, rows)


def _examples(run: RunFolder, arms: list[Mapping[str, Any]], folder: StudyFolder) -> list[Example]:
    """Returns the best method's test images with masks, beside those of the first run of the student alone."""
    paths = [
        string(entry, "path") for arm in arms if arm.get("name") == ALONE for entry in items(arm, "runs")
    ]
    alone = next((folder.runs[path] for path in paths if path in folder.runs), None)
    return read_examples(run.path, len(class_names(run.result)), None if alone is None else alone.path)


def _mean_of(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _facts(study: Mapping[str, Any], arms: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    seeds = dict.fromkeys(string(run, "seed") for arm in arms for run in items(arm, "runs"))
    facts = [
        ("Arms", str(len(arms))),
        ("Runs", str(sum(len(items(arm, "runs")) for arm in arms))),
        ("Seeds", ", ".join(seeds)),
        ("Time in training", duration(number(study, "seconds")) if "seconds" in study else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _dot_rows(arms: list[Mapping[str, Any]], metric: str) -> list[Row]:
    return [
        Row(
            string(arm, "name"),
            i,
            [
                (f"{string(arm, 'name')}, seed {seed}", value)
                for seed, value in scores_of(arm, metric).items()
            ],
        )
        for i, arm in enumerate(arms)
    ]


def _curves(arms: list[Mapping[str, Any]], folder: StudyFolder) -> list[Picture]:
    pictures = []
    for key, title in (
        ("val/acc1", "Held-out accuracy, %"),
        ("train/acc1", "Training accuracy, %"),
        ("val/miou", "Held-out mIoU, %"),
        ("train/miou", "Training mIoU (augmented images), %"),
        ("val/map", "Held-out mAP, %"),
        ("train/f1", "Training micro F1 (augmented images), %"),
        ("val/ap", "Held-out AP, %"),
        ("train/conflict", "Steps where label and teacher gradients oppose, %"),
        ("diagnose/agreement", "Same class as the teacher, % of training images sampled"),
        ("diagnose/feature_norm", "Norm of the student's feature"),
    ):
        lines = []
        for i, arm in enumerate(arms):
            runs = [
                folder.runs[name]
                for run in items(arm, "runs")
                if (name := string(run, "path")) in folder.runs
            ]
            lines.append(_mean_line(string(arm, "name"), runs, key, i))
        pictures.append(line_figure(key.replace("/", "-"), title, lines, named=True))
    return [picture for picture in pictures if picture is not None]


def _mean_line(name: str, runs: list[RunFolder], key: str, series: int) -> Line:
    """Returns the mean over the runs that reached an epoch, in a band from the lowest to the highest."""
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for row in run.metrics:
            epoch, value = number(row, "epoch"), number(row, key)
            if epoch is not None and value is not None and finite(value):
                by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(by_epoch)
    groups = [by_epoch[epoch] for epoch in epochs]
    return Line(
        name,
        epochs,
        [statistics.fmean(g) for g in groups],
        series,
        low=[min(g) for g in groups],
        high=[max(g) for g in groups],
    )


def _runs_table(arms: list[Mapping[str, Any]], metric: str, study: Path) -> Table:
    rows = tuple(
        (
            Cell(string(arm, "name")),
            number_cell(number(run, "seed"), digits=0),
            number_cell(number(run, metric)),
            Cell(duration(number(run, "seconds")), number(run, "seconds")),
            Cell(string(run, "path") or MISSING, href=_report_of(study, string(run, "path"))),
        )
        for arm in arms
        for run in items(arm, "runs")
    )
    columns = (
        Column("Arm", numeric=False),
        Column("Seed"),
        Column(metric_title(metric)),
        Column("Time"),
        Column("Run folder", numeric=False),
    )
    return Table("Every run", columns, rows)


def _report_of(study: Path, path: str) -> str:
    """Returns the address of a run's own page relative to the study's, empty if none is inside the study.

    The leading ``./`` keeps a folder called ``javascript:…`` a folder.
    """
    report = study / path / "report.html"
    if not path or not report.is_file() or not report.resolve().is_relative_to(study.resolve()):
        return ""
    return "./" + quote(report.resolve().relative_to(study.resolve()).as_posix())


def _first_environment(folder: StudyFolder) -> Mapping[str, Any]:
    return next((run.environment for run in folder.runs.values() if run.environment), {})


def _differing(folder: StudyFolder) -> list[str]:
    """Returns the names in which the environments of the runs differ."""
    found = [run.environment for run in folder.runs.values() if run.environment]
    names = dict.fromkeys(name for environment in found for name in environment)
    return [name for name in names if any(e.get(name) != found[0].get(name) for e in found)]
