"""The runs of a study -> one line an arm: mean and spread, paired differences with intervals, wins, costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.metrics import Difference, Summary, difference, summarise, verdict
from understudy.report.folder import items, number, string
from understudy.report.published import Published
from understudy.report.tables import finite

ALONE = "student alone"
"""Name of the arm that all others are compared with."""
KD = "kd"
"""Name of the arm that the other methods are compared with besides."""
TEACHER = "teacher"
"""Name of the arm that is no student and enters no comparison."""


@dataclass(frozen=True, slots=True)
class ArmLine:
    """What the runs of one arm say."""

    name: str
    model: str
    method: str
    planned: int
    """Number of runs, those without a score included."""
    scores: Mapping[str, float]
    """Seed -> score of the runs that have one, in percent."""
    summary: Summary | None
    """Of the scores; ``None`` without any."""
    to_alone: Difference | None
    """Minus the student alone, paired by seed; ``None`` for that arm itself, the teacher, and without scores."""
    to_kd: Difference | None
    """Likewise, minus KD."""
    seconds: float | None
    """Mean training time of a run."""
    memory: float | None
    """Largest peak memory of a run, in MiB."""
    parameters: float | None
    """Of the network that is shipped."""
    extra: float | None
    """Parameters that are trained beside it and thrown away."""
    published: tuple[Published, ...]

    @property
    def mean(self) -> float | None:
        """Mean score in percent."""
        return None if self.summary is None else self.summary.mean


def arm_lines(study: Mapping[str, Any]) -> list[ArmLine]:
    """Returns one line an arm of a ``study.json``, in its order."""
    metric = string(study, "metric") or "test/acc1"
    arms = items(study, "arms")
    scores = [scores_of(arm, metric) for arm in arms]
    by_name = {string(arm, "name"): found for arm, found in zip(arms, scores, strict=True)}
    return [
        _line(arm, found, by_name.get(ALONE, {}), by_name.get(KD, {}))
        for arm, found in zip(arms, scores, strict=True)
    ]


def scores_of(arm: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Returns seed -> score of the runs that have a finite one."""
    found = {string(run, "seed"): number(run, metric) for run in items(arm, "runs")}
    return {seed: score for seed, score in found.items() if score is not None and finite(score)}


def verdicts(lines: Sequence[ArmLine]) -> list[str]:
    """Returns every comparison as a plain sentence: with the student alone, then with KD; the best method first."""
    ranked = sorted(lines, key=lambda line: -line.mean if line.mean is not None else 0.0)
    sentences = [verdict(line.name, ALONE, line.to_alone) for line in ranked if line.to_alone is not None]
    sentences += [verdict(line.name, KD, line.to_kd) for line in ranked if line.to_kd is not None]
    lost = [line for line in lines if len(line.scores) < line.planned]
    return sentences + [
        f"{line.name}: {line.planned - len(line.scores)} of {line.planned} runs have no score"
        for line in lost
    ]


def compared(scores: Mapping[str, float], other: Mapping[str, float]) -> Difference | None:
    """Returns the difference of two arms, paired by seed where they share seeds; ``None`` if one has no score."""
    if not scores or not other:
        return None
    place = {seed: i for i, seed in enumerate(dict.fromkeys([*scores, *other]))}
    return difference(
        {place[seed]: value for seed, value in scores.items()},
        {place[seed]: value for seed, value in other.items()},
    )


def _line(
    arm: Mapping[str, Any], scores: Mapping[str, float], alone: Mapping[str, float], kd: Mapping[str, float]
) -> ArmLine:
    name, runs = string(arm, "name"), items(arm, "runs")
    contender = name not in (ALONE, TEACHER)
    return ArmLine(
        name=name,
        model=string(arm, "model"),
        method=string(arm, "method"),
        planned=len(runs),
        scores=scores,
        summary=summarise(list(scores.values())) if scores else None,
        to_alone=compared(scores, alone) if contender else None,
        to_kd=compared(scores, kd) if contender and name != KD else None,
        seconds=_mean(number(run, "seconds") for run in runs if string(run, "status") != "diverged"),
        memory=_largest(number(run, "peak_memory_mib") for run in runs),
        parameters=number(arm, "parameters"),
        extra=_largest(number(run, "extra_parameters") for run in runs),
        published=tuple(
            Published(value, string(entry, "source"))
            for entry in items(arm, "published")
            if (value := number(entry, "value")) is not None
        ),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and finite(value)]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return statistics.fmean(known) if known else None


def _largest(values: Iterable[float | None]) -> float | None:
    return max(_known(values), default=None)
