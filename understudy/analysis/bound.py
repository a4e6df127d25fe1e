"""The error bound of IJCKD: what the student owes to its teacher, its classifier and its features."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from understudy.analysis.precision import float64, result_dtype
from understudy.losses.contract import check_logits
from understudy.metrics.contract import check_labelled, check_not_empty


def ijckd_bound(
    student_logits: Tensor,
    cross_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    space: Literal["probability", "logit"] = "probability",
) -> dict[str, Tensor]:
    """Returns the student's error and the three terms that bound it.

    With s, x, t the softmaxes of the three logits, y the one-hot target and ‖.‖₁ averaged over the samples:
    ‖s - y‖₁ <= ‖t - y‖₁ + ‖s - x‖₁ + ‖x - t‖₁. The triangle inequality makes it hold always, up to rounding.

    Args:
        student_logits: of the student's own head.
        cross_logits: of the teacher's head on the student's (connected) feature.
        teacher_logits: of the teacher.
        target: class numbers.
        space: ``"probability"`` as above, or ``"logit"``: cross-entropies as errors and mean squared
            differences of logits as distances (the paper's Eq. 3), which bounds nothing.

    Returns:
        0-d tensors ``student_error``, ``teacher_error``, ``delta1`` (how far the two classifiers disagree on
        the student's feature), ``delta2`` (how far the two features do under the teacher's classifier), and
        ``bound``, the sum of the last three. ``delta1`` is 0 by construction for simkd and ijckd, whose
        student has the teacher's head.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, ``target`` is wrong, there
            is no sample, ``space`` is neither of the two.

    Shape:
        student_logits, cross_logits, teacher_logits: ``(B, C)``; target: ``(B,)``; outputs: ``()``.

    Reference: Li et al., Knowledge Distillation Under Ideal Joint Classifier Assumption, Theorem 1 and Eq. 3.
        The theorem's text misprints the student as f_t.
    """
    check_logits(student_logits, teacher_logits)
    check_logits(cross_logits, teacher_logits, ("cross", "teacher"))
    check_labelled(student_logits, target, "student_logits")
    check_not_empty(student_logits, "student_logits")
    s, x, t = float64(student_logits), float64(cross_logits), float64(teacher_logits)
    if space == "probability":
        s, x, t = s.softmax(dim=1), x.softmax(dim=1), t.softmax(dim=1)
        truth = F.one_hot(target, s.shape[1])  # (B, C)
        student_error, teacher_error = _taxicab(s, truth), _taxicab(t, truth)
        delta1, delta2 = _taxicab(s, x), _taxicab(x, t)
    elif space == "logit":
        student_error, teacher_error = F.cross_entropy(s, target), F.cross_entropy(t, target)
        delta1, delta2 = F.mse_loss(s, x), F.mse_loss(x, t)
    else:
        raise ValueError(f"space must be 'probability' or 'logit', got {space!r}. Choose one of the two")
    result = {
        "student_error": student_error,
        "teacher_error": teacher_error,
        "delta1": delta1,
        "delta2": delta2,
        "bound": teacher_error + delta1 + delta2,
    }
    dtype = result_dtype(student_logits, cross_logits, teacher_logits)
    return {name: value.to(dtype) for name, value in result.items()}


def _taxicab(a: Tensor, b: Tensor) -> Tensor:
    """Returns the mean over samples of the 1-norm of the difference."""
    return (a - b).abs().sum(dim=1).mean()
