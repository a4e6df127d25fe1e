"""Time and parameters against accuracy, over the arms of a study (DKD Fig. 2, KD++ Fig. A2, DHKD Table 10)."""

from __future__ import annotations

import statistics

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.report.folder import StudyFolder, items, number, string
from understudy.report.plots import Curve, Curves
from understudy.report.study_page import metric_title


def costs(study: StudyFolder) -> Finding:
    """Returns for every arm the study's score, seconds an epoch, and the parameters it trains beside the student's."""
    rows: list[list[Value]] = []
    metric = string(study.study, "metric") or "test/acc1"
    score = metric.rpartition("/")[2]
    for arm in items(study.study, "arms"):
        scored = [(run, number(run, metric)) for run in items(arm, "runs")]
        runs = [run for run, value in scored if value is not None]  # not those that diverged
        scores = [value for _, value in scored if value is not None]
        seconds = [_seconds_an_epoch(study, run.get("path"), number(run, "seconds")) for run in runs]
        timed = [value for value in seconds if value is not None]
        if not scores:
            continue
        extra = number(runs[0], "extra_parameters")
        rows.append(
            [
                string(arm, "name"),
                statistics.fmean(scores),
                statistics.stdev(scores) if len(scores) > 1 else None,
                statistics.fmean(timed) if timed else None,
                number(arm, "parameters"),
                extra,
            ]
        )
    columns = ("arm", score, "std", "seconds_an_epoch", "parameters", "extra_parameters")
    plots = tuple(
        Curves(
            name,
            title,
            x_label,
            metric_title(metric),
            tuple(Curve(str(r[0]), [float(r[i] or 0)], [float(r[1] or 0)]) for r in rows if r[i] is not None),
        )
        for name, title, x_label, i in (
            ("time", "Time against score", "seconds an epoch", 3),
            ("extra", "Extra parameters against score", "parameters trained and thrown away", 5),
        )
    )
    numbers = {
        f"{r[0]}/{key}": float(r[i] or 0)
        for r in rows
        for key, i in ((score, 1), ("seconds", 3))
        if r[i] is not None
    }
    notes = (
        "Seconds are those of training alone, on one machine with whatever ran beside; means over the seeds.",
    )
    return Finding(numbers, {"arms": Sheet(columns, rows)}, plots, notes)


def _seconds_an_epoch(study: StudyFolder, path: object, seconds: float | None) -> float | None:
    if seconds is None or not isinstance(path, str) or path not in study.runs:
        return None
    epochs = number(study.runs[path].result, "epochs")
    return seconds / epochs if epochs else None
