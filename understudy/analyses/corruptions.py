"""Accuracy on spoiled images: does the student lose more than its teacher?"""

from __future__ import annotations

import statistics

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Pair, Seen
from understudy.data.corruptions import CORRUPTIONS, LEVELS, corrupted
from understudy.data.subsets import balanced
from understudy.metrics import correct
from understudy.report.plots import Curve, Curves

MOST = 2000
"""Images that are spoiled, as many of every class: twenty passes over a large set take long on a CPU."""


def corruptions(pair: Pair) -> Finding:
    """Returns top-1 accuracy of student and teacher on the test images under every corruption and level."""
    images = pair.images("test")
    if len(images) > MOST:
        images = images.subset(balanced(images.targets, MOST, 0))
    clean = _accuracy(pair.look(images))
    levels: dict[tuple[str, str], list[float]] = {}
    for kind in CORRUPTIONS:
        for level in LEVELS:
            for name, value in _accuracy(pair.look(corrupted(images, kind, level))).items():
                levels.setdefault((name, kind), [clean[name]]).append(value)
    numbers = {f"{name}/clean": value for name, value in clean.items()}
    numbers |= {f"{name}/{kind}": statistics.fmean(values[1:]) for (name, kind), values in levels.items()}
    for name in clean:
        numbers[f"{name}/corrupted"] = statistics.fmean(numbers[f"{name}/{kind}"] for kind in CORRUPTIONS)
    rows: list[list[Value]] = [[name, kind, *values] for (name, kind), values in levels.items()]
    plots = tuple(
        Curves(
            kind,
            f"Top-1 accuracy under {kind}, %",
            "level (0: the image itself)",
            "%",
            tuple(Curve(name, [0, *LEVELS], levels[name, kind]) for name in clean),
        )
        for kind in CORRUPTIONS
    )
    columns = ("model", "corruption", "level_0", *(f"level_{level}" for level in LEVELS))
    note = (
        f"On {len(images)} test images (evaluate --corruptions takes all). NAME/KIND is the mean over the five levels. "
        "The corrupted images are made here: the numbers do not compare with those on published files."
    )
    return Finding(numbers, {"levels": Sheet(columns, rows)}, plots, (note,))


def _accuracy(seen: Seen) -> dict[str, float]:
    logits = {"student": seen.student} | ({} if seen.teacher is None else {"teacher": seen.teacher})
    return {n: 100 * int(correct(z, seen.target, (1,))[0]) / len(seen.target) for n, z in logits.items()}
