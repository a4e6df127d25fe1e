"""What the page of a study says."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from understudy.report.figures import Line, Picture, Row, dot_figure, line_figure
from understudy.report.folder import RunFolder, StudyFolder, items, number, string
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
    signed,
)

ALONE = "student alone"
"""Name of the arm that all others are compared with."""


def study_context(folder: StudyFolder) -> dict[str, Any]:
    """Returns what ``study.html`` needs."""
    study = folder.study
    metric = string(study, "metric") or "test/acc1"
    arms = items(study, "arms")
    verdicts = study.get("verdicts")
    runs = [run for arm in arms for run in items(arm, "runs")]
    scores = [number(run, metric) for run in runs]
    return {
        "title": string(study, "title") or folder.path.resolve().name,
        "what": string(study, "what"),
        "verdicts": [str(verdict) for verdict in verdicts] if isinstance(verdicts, list) else [],
        "metric": metric_title(metric),
        "results": _results(arms, metric),
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
        >>> metric_title("test/acc1"), metric_title("test/map")
        ('Test top-1 accuracy, %', 'test/map')
    """
    known = {
        "test/acc1": "Test top-1 accuracy, %",
        "test/acc5": "Test top-5 accuracy, %",
        "val/acc1": "Held-out top-1 accuracy, %",
    }
    return known.get(metric, metric)


def _scores(arm: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Returns seed -> score of the runs that have a finite one."""
    found = {string(run, "seed"): number(run, metric) for run in items(arm, "runs")}
    return {seed: score for seed, score in found.items() if score is not None and finite(score)}


def _mean_and_spread(values: list[float]) -> Cell:
    """Returns mean ± sample standard deviation; the mean alone for a single value."""
    if not values:
        return Cell(MISSING)
    mean = statistics.fmean(values)
    spread = f" ± {decimal(statistics.stdev(values))}" if len(values) > 1 else ""
    return Cell(decimal(mean) + spread, mean)


def _difference(scores: Mapping[str, float], alone: Mapping[str, float]) -> Cell:
    """Returns the difference to the student alone: seed by seed where they share seeds, else of the means."""
    shared = [seed for seed in scores if seed in alone]
    if shared:
        gaps = [scores[seed] - alone[seed] for seed in shared]
        spread = f" ± {decimal(statistics.stdev(gaps))}" if len(gaps) > 1 else ""
        return Cell(signed(statistics.fmean(gaps)) + spread, statistics.fmean(gaps))
    if scores and alone:
        gap = statistics.fmean(scores.values()) - statistics.fmean(alone.values())
        return Cell(signed(gap), gap, note="of means")
    return Cell(MISSING)


def _results(arms: list[Mapping[str, Any]], metric: str) -> Table:
    alone: Mapping[str, float] = next((_scores(arm, metric) for arm in arms if arm.get("name") == ALONE), {})
    rows = []
    for arm in arms:
        scores = _scores(arm, metric)
        planned = len(items(arm, "runs"))
        rows.append(
            (
                Cell(string(arm, "name")),
                _mean_and_spread(list(scores.values())),
                Cell(MISSING) if arm.get("name") == ALONE else _difference(scores, alone),
                Cell(
                    f"{len(scores)}" if len(scores) == planned else f"{len(scores)} of {planned}", len(scores)
                ),
                number_cell(number(arm, "parameters"), digits=0),
                Cell(string(arm, "model") or MISSING),
            )
        )
    columns = (
        Column("Arm", numeric=False),
        Column("Mean ±\u00a0std"),
        Column("Difference"),
        Column("n"),
        Column("Parameters"),
        Column("Model", numeric=False),
    )
    return Table(f"{metric_title(metric)}, over seeds; difference to {ALONE}", columns, tuple(rows))


def _facts(study: Mapping[str, Any], arms: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    seeds = dict.fromkeys(string(run, "seed") for arm in arms for run in items(arm, "runs"))
    facts = [
        ("Arms", str(len(arms))),
        ("Runs", str(sum(len(items(arm, "runs")) for arm in arms))),
        ("Seeds", ", ".join(seeds)),
        ("Time", duration(number(study, "seconds")) if "seconds" in study else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _dot_rows(arms: list[Mapping[str, Any]], metric: str) -> list[Row]:
    return [
        Row(
            string(arm, "name"),
            i,
            [(f"{string(arm, 'name')}, seed {seed}", value) for seed, value in _scores(arm, metric).items()],
        )
        for i, arm in enumerate(arms)
    ]


def _curves(arms: list[Mapping[str, Any]], folder: StudyFolder) -> list[Picture]:
    pictures = []
    for key, title in (("val/acc1", "Held-out accuracy, %"), ("train/acc1", "Training accuracy, %")):
        lines = []
        for i, arm in enumerate(arms):
            runs = [
                folder.runs[name]
                for run in items(arm, "runs")
                if (name := string(run, "path")) in folder.runs
            ]
            lines.append(_mean_line(string(arm, "name"), runs, key, i))
        pictures.append(line_figure(key.replace("/", "-"), title, lines))
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
