"""IJCKD's bound measured: what the student owes to its teacher, its classifier and its features."""

from __future__ import annotations

from typing import Literal

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.analysis import ijckd_bound
from understudy.metrics import correct
from understudy.report.plots import Bars

_TERMS = ("student_error", "teacher_error", "delta1", "delta2", "bound")


def bound(pair: Pair) -> Finding:
    """Returns Δ1, Δ2 and both errors on the test images, and the student's accuracy under each classifier."""
    seen = pair.see("test")
    assert seen.teacher is not None
    assert seen.crossed is not None  # both are among the needs
    spaces: tuple[Literal["probability", "logit"], ...] = ("probability", "logit")
    found = {
        space: ijckd_bound(
            seen.student.double(), seen.crossed.double(), seen.teacher.double(), seen.target, space
        )
        for space in spaces
    }
    numbers = {key: float(found["probability"][key]) for key in _TERMS}
    for name, logits in (("own_classifier", seen.own), ("teachers_classifier", seen.crossed)):
        numbers[f"{name}/acc1"] = 100 * int(correct(logits, seen.target, (1,))[0]) / len(seen.target)
    rows: list[list[Value]] = [[s, *(float(terms[key]) for key in _TERMS)] for s, terms in found.items()]
    replaced = pair.distiller.replacing is not None
    notes = (
        "In probabilities ‖·‖₁ is averaged over the images and student_error ≤ bound always; in logits (the paper's "
        "Eq. 3) nothing is promised.",
    )
    if replaced:
        notes += (
            "The student answers with the teacher's classifier: Δ1 is 0 by construction, its own head untrained.",
        )
    plot = Bars(
        "terms",
        "The student's error and what bounds it",
        "mean 1-norm",
        ("student's error", "teacher's error", "Δ1", "Δ2", "bound"),
        (("probability", [numbers[key] for key in _TERMS]),),
    )
    return Finding(numbers, {"terms": Sheet(("space", *_TERMS), rows)}, (plot,), notes)
