"""Class against class: how the student's logits relate, beside the teacher's."""

from __future__ import annotations

from torch import Tensor

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.analysis import class_logit_difference, correlation_difference
from understudy.engine.measure import MOST_CONFUSED
from understudy.report.plots import Heat, Plot


def correlation(pair: Pair) -> Finding:
    """Returns both published pictures for every head of the student, on the test images."""
    seen = pair.see("test")
    assert seen.teacher is not None
    logits = {"student": seen.student, **seen.auxiliary}
    pictures = {
        "correlation": {
            name: correlation_difference(z.double(), seen.teacher.double()) for name, z in logits.items()
        },
        "class_logits": {
            name: class_logit_difference(z.double(), seen.teacher.double(), seen.target)
            for name, z in logits.items()
        },
    }
    numbers, sheets, plots = {}, {}, list[Plot]()
    for kind, title in (
        ("correlation", "Difference of logit correlations"),
        ("class_logits", "Difference of mean logits by true class"),
    ):
        highest = max(float(matrix.max()) for matrix in pictures[kind].values())
        for name, matrix in pictures[kind].items():
            numbers[f"{name}/{kind}"] = _off_diagonal(matrix)
            if len(matrix) <= MOST_CONFUSED:
                rows: list[list[Value]] = matrix.tolist()
                sheets[f"{kind}-{name}"] = Sheet(tuple(f"class_{c}" for c in range(len(matrix))), rows)
            y = "class" if kind == "correlation" else "true class"
            plots.append(Heat(f"{kind}-{name}", f"{title}, {name}", matrix.numpy(), "class", y, highest))
    notes = (
        "Numbers are means off the diagonal. correlation is what the papers' captions describe; class_logits is what "
        "the notebook released with DKD draws, and is no correlation.",
    )
    return Finding(numbers, sheets, tuple(plots), notes)


def _off_diagonal(matrix: Tensor) -> float:
    n = len(matrix)
    return float((matrix.sum() - matrix.diagonal().sum()) / max(n * (n - 1), 1))
