"""What the page of one run says."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from understudy.report.confusion import read_by_class, read_confusion
from understudy.report.examples import example_note, legend, read_examples
from understudy.report.figures import REFERENCE, Line, Picture, line_figure
from understudy.report.folder import RunFolder, class_names, number, part, string
from understudy.report.mistakes import read_mistakes
from understudy.report.tables import (
    MISSING,
    Cell,
    Column,
    Table,
    decimal,
    duration,
    finite,
    general,
    mapping_table,
    number_cell,
)
from understudy.tasks import TASKS, Task, task_named

_NO_TERMS = {
    f"train/{name}"
    for name in (
        "loss",
        "lambda",
        "conflict",
        "skipped",
        *(score for task in TASKS.values() for score in (*task.titles, task.watched)),
    )
}
MOST_EPOCHS = 300
"""Longest table of epochs; of a longer run it shows every k-th, the first and the last."""


def run_context(run: RunFolder, alone: RunFolder | None) -> dict[str, Any]:
    """Returns what ``run.html`` needs.

    Args:
        run: the run the page is about.
        alone: the same student trained without a teacher.

    Raises:
        ValueError: ``alone`` has no result yet, or the confusion matrix is malformed.
    """
    if alone is not None and not alone.result:
        raise ValueError(f"alone must be a run with a result.json, got {alone.path}. Finish that run first")
    last = part(run.result, "last")
    classes, score = class_names(run.result), task_of_run(run).primary
    wrong, mistakes = read_mistakes(run.path, classes)
    measured = next((name for name in ("test", "val") if number(last, f"{name}/{score}") is not None), "")
    return {
        "title": _title(run),
        "model": string(run.result, "model"),
        "status": string(run.result, "status") or "unfinished",
        "message": string(run.result, "message"),
        "verb": _verb(run),
        "again": shlex.quote(_config_file(run)),
        "measured": measured,
        "headline": decimal(number(last, f"{measured}/{score}")),
        "score": _SCORES[task_of_run(run).name],
        "epochs": string(last, "epoch") or string(run.result, "epochs") or str(len(run.metrics)),
        "comparisons": _comparisons(run, alone),
        "results": _results(run, alone) if run.result else None,
        "setbacks": _setbacks(part(run.result, "divergence")),
        "best": _best_in_words(part(run.result, "best")),
        "facts": _facts(run),
        "figures": _figures(run, alone),
        "epoch_table": _epoch_table(run.metrics),
        "confusion": read_confusion(run.result, None if alone is None else alone.result),
        "by_class": read_by_class(run.result, None if alone is None else alone.result),
        "wrong": wrong,
        "mistakes": mistakes,
        "examples": read_examples(run.path, len(classes), None if alone is None else alone.path),
        "legend": legend(classes),
        "example_note": example_note(run.result),
        "config": run.config,
        "environment_table": mapping_table("Environment", run.environment),
    }


def task_of_run(run: RunFolder) -> Task:
    """Returns the task of a run: as its result says, or, before there is one, as its epochs were scored."""
    seen = (t.name for t in TASKS.values() if any(f"train/{t.watched}" in row for row in run.metrics))
    return task_named(run.result.get("task") or next(seen, None))


_SCORES = {
    "classification": "top-1 accuracy",
    "detection": "AP",
    "multilabel": "mean average precision",
    "segmentation": "mIoU",
}


def _title(run: RunFolder) -> str:
    """Returns the name of a run; one of a study is called by its arm and seed."""
    path = run.path.resolve()
    name = string(run.result, "name") or path.name
    return f"{path.parent.name}, {name}" if name.startswith("seed-") and name == path.name else name


def _config_file(run: RunFolder) -> str:
    """Returns where the run's config lies, seen from where it was started."""
    try:
        config = yaml.safe_load(run.config)
    except yaml.YAMLError:
        config = None
    output = config.get("output") if isinstance(config, dict) else None
    return f"{output}/config.yaml" if isinstance(output, str) else "config.yaml"


def _verb(run: RunFolder) -> str:
    return "train" if run.result.get("verb") == "train" else "distill"


def _comparisons(run: RunFolder, alone: RunFolder | None) -> list[str]:
    """Returns the result against the student alone and the teacher, in points of the first test score."""
    metric = f"test/{task_of_run(run).primary}"
    mine = number(part(run.result, "last"), metric)
    others = (
        ("the student alone", number(part(alone.result, "last"), metric) if alone else None),
        ("the teacher", number(part(run.result, "teacher"), metric)),
    )
    sentences = []
    for name, other in others:
        if mine is None or other is None or not finite(mine - other):
            continue
        points = decimal(abs(mine - other))
        direction = "above" if mine > other else "below"
        sentences.append(f"level with {name}" if points == "0.00" else f"{points} points {direction} {name}")
    return sentences


def _results(run: RunFolder, alone: RunFolder | None) -> Table:
    teacher, task = part(run.result, "teacher"), task_of_run(run)
    scores = [f"test/{name}" for name in task.titles]
    rows = []
    if teacher:
        rows.append(_result_row("Teacher", teacher, teacher, {}, scores))
    for name, folder in (
        ("Student alone", alone),
        ("Distilled" if _verb(run) == "distill" else "Trained", run),
    ):
        if folder is not None:
            result = folder.result
            rows.append(_result_row(name, result, part(result, "last"), part(result, "best"), scores))
    titles = [title.replace("-", "‑") for title in task.titles.values()]
    columns = (
        Column("Network", numeric=False),
        *(Column(f"Last: {title}") for title in titles),
        Column(f"Best: {titles[0]}"),
        Column("Best: epoch"),
        Column("Parameters"),
        Column("Model", numeric=False),
    )
    shown = [i for i in range(len(columns)) if i == 0 or any(row[i].text != MISSING for row in rows)]
    return Table(
        "Accuracy on the test set, in percent"
        if task.name == "classification"
        else "Scores on the test set, in percent",
        tuple(columns[i] for i in shown),
        tuple(tuple(row[i] for i in shown) for row in rows),
    )


def _result_row(
    name: str,
    about: Mapping[str, Any],
    last: Mapping[str, Any],
    best: Mapping[str, Any],
    scores: Sequence[str],
) -> tuple[Cell, ...]:
    note = "chosen on test" if best.get("chosen_on") == "test" else ""
    return (
        Cell(name),
        *(number_cell(number(last, score)) for score in scores),
        number_cell(number(best, scores[0]), note=note),
        number_cell(number(best, "epoch"), digits=0),
        number_cell(number(about, "parameters"), digits=0),
        Cell(string(about, "model") or MISSING),
    )


def _best_in_words(best: Mapping[str, Any]) -> str:
    """Returns how the best epoch was chosen, empty if none was."""
    if not best:
        return ""
    epoch = decimal(number(best, "epoch"), digits=0)
    held_out = {
        "accuracy" if task.primary == "acc1" else task.titles[task.primary]: number(
            best, f"val/{task.primary}"
        )
        for task in TASKS.values()
    }
    name, value = next(((k, v) for k, v in held_out.items() if v is not None), ("accuracy", None))
    if best.get("chosen_on") == "test":
        return f"epoch {epoch} was chosen on the test set itself, so its accuracy there is optimistic"
    reached = "" if value is None else f" ({decimal(value)} %)"
    return (
        f"epoch {epoch} had the highest {name}{reached} on the part of the training set that was held out; "
        "the test set had no say"
    )


_DID = {
    "skipped": "the steps were left out",
    "rewound": "the run went back to its last good epoch, with a lower learning rate",
    "stopped": "the run ended",
}


def _setbacks(divergence: Mapping[str, Any]) -> list[str]:
    """Returns what went wrong in the training and what was done about it, a sentence each."""
    sentences = []
    for event in divergence.get("events") or ():
        if isinstance(event, Mapping):
            step = number(event, "step")
            place = f"Epoch {string(event, 'epoch')}" + ("" if step is None else f", step {step:.0f}")
            steps = number(event, "steps")
            more = "" if steps is None else f" ({steps:.0f} in this epoch)"
            sentences.append(
                f"{place}: {string(event, 'what')}; {_DID.get(string(event, 'did'), 'no more is known')}{more}"
            )
    return sentences


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    """Returns name and value of what is worth knowing beside the accuracy."""
    result, teacher = run.result, part(run.result, "teacher")
    parameters, guide = number(result, "parameters"), number(teacher, "parameters")
    speeds = [
        speed
        for row in run.metrics
        if (speed := number(row, "images_per_second")) is not None and finite(speed)
    ]
    facts = [
        ("Time", duration(number(result, "seconds")) if "seconds" in result else ""),
        ("Speed", f"{sum(speeds) / len(speeds):,.0f} images/s" if speeds else ""),
        ("Parameters", decimal(parameters, digits=0) if parameters is not None else ""),
    ]
    if parameters and guide and finite(guide / parameters):
        facts.append(("Size of the teacher", f"{guide / parameters:.1f} × the student"))
    agreement = number(teacher, "agreement")
    if agreement is not None:
        facts.append(
            ("Same prediction as the teacher", f"{decimal(agreement)} % of {task_of_run(run).samples}")
        )
    return [(name, value) for name, value in facts if value]


def _figures(run: RunFolder, alone: RunFolder | None) -> list[Picture]:
    rows = run.metrics
    if not rows:
        return []
    pictures = (
        line_figure("loss", "Training loss", _loss_lines(rows), logarithmic=True),
        line_figure("accuracy", _CURVES[task_of_run(run).name], _accuracy_lines(run, alone)),
        line_figure("rate", "Learning rate", [_line("learning rate", rows, "lr", 0)], logarithmic=True),
        *_diagnostics(rows),
    )
    return [picture for picture in pictures if picture is not None]


_CURVES = {
    "classification": "Accuracy, %",
    "detection": "AP, %",
    "multilabel": "mAP, % (in training: micro F1)",
    "segmentation": "mIoU, % (of augmented images in training)",
}


def _diagnostics(rows: Sequence[Mapping[str, Any]]) -> list[Picture | None]:
    """Returns what was looked at during training besides losses and accuracy."""
    return [
        line_figure(
            "conflict",
            "Steps where label and teacher gradients oppose, %",
            [
                _line("over all weights that both reach", rows, "train/conflict", 0),
                _line("at the feature, sampled", rows, "diagnose/conflict", 1),
            ],
        ),
        line_figure("lambda", "Strength of the alignment, λ", [_line("λ", rows, "train/lambda", 0)]),
        line_figure(
            "norm", "Norm of the student's feature", [_line("norm", rows, "diagnose/feature_norm", 0)]
        ),
        line_figure(
            "agreement",
            "Training images, sampled, %",
            [
                _line("same class as the teacher", rows, "diagnose/agreement", 0),
                _line("in the class predicted most", rows, "diagnose/top_class", 1),
            ],
        ),
    ]


def _line(name: str, rows: Sequence[Mapping[str, Any]], key: str, series: int) -> Line:
    kept = [row for row in rows if key in row]  # evaluated every few epochs only: no gaps in between
    return Line(
        name, [number(row, "epoch") or 0.0 for row in kept], [number(row, key) for row in kept], series
    )


def _terms(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the loss terms, in the order they first appear."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("train/"))
    return [key.removeprefix("train/") for key in keys if key not in _NO_TERMS]


def _loss_lines(rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    terms = _terms(rows)
    lines = [_line("total", rows, "train/loss", 0)]
    if len(terms) > 1:  # a single term is the total
        lines += [_line(term, rows, f"train/{term}", i) for i, term in enumerate(terms, start=1)]
    return lines


def _accuracy_lines(run: RunFolder, alone: RunFolder | None) -> list[Line]:
    rows, task = run.metrics, task_of_run(run)
    score = task.primary
    span = [number(rows[0], "epoch") or 0.0, number(rows[-1], "epoch") or 0.0]
    lines = [
        *([_line("training", rows, f"train/{task.watched}", 0)] if task.watched in task.titles else []),
        _line("held out", rows, f"val/{score}", 1),
        _line("test, once", rows, f"test/{score}", 2),
    ]
    if alone is not None:
        value = number(part(alone.result, "last"), f"test/{score}")
        lines.append(Line("student alone on test", span, [value, value], REFERENCE))
    teacher = number(part(run.result, "teacher"), f"test/{score}")
    return [*lines, Line("teacher on test", span, [teacher, teacher], REFERENCE - 1)]


def _epoch_table(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Returns the numbers behind the curves."""
    if not rows:
        return None
    step = -(-len(rows) // MOST_EPOCHS)
    shown = [row for i, row in enumerate(rows) if i % step == 0 or i == len(rows) - 1]
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "epoch"]
    caption = "Every epoch" if step == 1 else f"Every {step}th epoch, and the last"
    columns = (Column("Epoch"), *(Column(key) for key in keys))
    body = tuple(
        (number_cell(number(row, "epoch"), digits=0), *(_metric_cell(number(row, key)) for key in keys))
        for row in shown
    )
    return Table(caption, columns, body)


def _metric_cell(value: float | None) -> Cell:
    return Cell(general(value), value if finite(value) else None)
