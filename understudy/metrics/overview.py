"""All that is said of one network's answers to a set, and of a student's beside its teacher's, as plain numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.metrics.accuracy import correct
from understudy.metrics.agreement import mean_kl, top1_agreement
from understudy.metrics.calibration import brier_score, expected_calibration_error, negative_log_likelihood
from understudy.metrics.contract import check_labelled
from understudy.widest import widen


@torch.no_grad()
def quality(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Returns how right a network is, and how far its confidence can be trusted.

    Args:
        logits: scores of all classes, of the whole set.
        target: class numbers.

    Returns:
        ``acc1``, ``acc5`` and ``ece`` (15 bins) in percent, ``nll`` in nats, ``brier`` from 0 to 2.

    Raises:
        ValueError: a shape or dtype is wrong, there is no sample.

    Shape:
        logits: ``(B, C)``; target: ``(B,)``.
    """
    ece = expected_calibration_error(logits, target)
    first, fifth = correct(logits, target, (1, min(5, logits.shape[1]))).tolist()
    return {
        "acc1": 100 * first / len(target),
        "acc5": 100 * fifth / len(target),
        "ece": 100 * float(ece),
        "nll": float(negative_log_likelihood(logits, target)),
        "brier": float(brier_score(logits, target)),
    }


@torch.no_grad()
def likeness(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> dict[str, float]:
    """Returns how far a student answers like its teacher, where that is right and where it is wrong.

    Args:
        student_logits: of the whole set.
        teacher_logits: likewise.
        target: class numbers.

    Returns:
        ``agreement`` of top-1, in percent; ``agreement_on_errors``: of the samples that the teacher gets wrong, those
        on which the student names the same wrong class, in percent (NaN if it errs nowhere); ``kl`` from teacher to
        student, in nats; ``overtakes`` and ``loses``: samples that only the student, only the teacher gets right, in
        percent, so that their difference is that of the accuracies.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, ``target`` is wrong, there is no sample.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; target: ``(B,)``.

    Reference: Stanton et al., Does Knowledge Distillation Really Work?, NeurIPS 2021, for agreement and KL.
    """
    agreement, kl = top1_agreement(student_logits, teacher_logits), mean_kl(student_logits, teacher_logits)
    check_labelled(student_logits, target, "student_logits")
    ours, theirs = student_logits.argmax(dim=1), teacher_logits.argmax(dim=1)
    right, wrong = ours == target, theirs != target
    return {
        "agreement": 100 * float(agreement),
        "agreement_on_errors": 100 * float(widen((ours == theirs)[wrong]).mean()),
        "kl": float(kl),
        "overtakes": 100 * float(widen(right & wrong).mean()),
        "loses": 100 * float(widen(~right & ~wrong).mean()),
    }
