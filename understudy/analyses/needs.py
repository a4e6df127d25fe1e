"""What an analysis may need of a run, and how its lack is said."""

from __future__ import annotations

from collections.abc import Callable

from understudy.analyses.pair import Pair


def _teacher(pair: Pair) -> str | None:
    if pair.distiller.guides:
        return None
    return "a teacher, got a run without one. Add teacher.model=... teacher.weights=... to the command"


def _one_teacher(pair: Pair) -> str | None:
    if (reason := _teacher(pair)) is not None or pair.teacher is not None:
        return reason
    return "one teacher whose feature can be seen, got several. Analyse a run with one of them"


def _head(pair: Pair) -> str | None:
    if pair.linear() is not None:
        return None
    return "a student that ends in a linear layer, got none that can be seen. Name it: student.taps.head=PATH"


def _teacher_head(pair: Pair) -> str | None:
    if (reason := _one_teacher(pair)) is not None:
        return reason
    assert pair.teacher is not None
    if pair.teacher_merges:
        return "a teacher with one class for each of ours, got one whose classes are merged (teacher.classes)"
    if pair.teacher.head is not None and "feature" in pair.teacher.shapes:
        return None
    return "a teacher that ends in a linear layer, got none that can be seen. Name it: teacher.taps.head=PATH"


def _test(pair: Pair) -> str | None:
    return None if pair.built.data.test is not None else "test images, got data without any. Set data.test"


def _both_sides(pair: Pair) -> str | None:
    sides = {term.method.label_loss for term in pair.distiller.terms}
    if sides == {True, False}:
        return None
    got = "labels alone" if sides == {True} else "a teacher alone"
    return f"a run that learns from labels and from a teacher, got one that learns from {got}. Add the other term"


def _crossed(pair: Pair) -> str | None:
    if (reason := _teacher_head(pair)) is not None or pair.transplant() is not None:
        return reason
    assert pair.teacher is not None
    student, width = pair.distiller.network, pair.teacher.classifier.in_features
    if student.shapes.get("feature") == (width,):
        return None
    return (
        f"the teacher's classifier on the student's feature, got features of widths {width} and "
        f"{student.shapes.get('feature', ('unknown',))[0]}. Analyse a run of srrl, ijckd or simkd, which connect them"
    )


def _transfer(pair: Pair) -> str | None:
    if pair.options.transfer is not None:
        return None
    return (
        "other images, got none. Add transfer.name=cifar10 transfer.root=DIR (keys of data:) to the command"
    )


def _sweep(pair: Pair) -> str | None:
    sweep = pair.options.sweep
    if sweep.setting is not None and sweep.values:
        return None
    return (
        "a setting and its values, got none. Add for example sweep.setting=losses.1.temperature "
        "sweep.values=[1,2,4] to the command"
    )


NEEDS: dict[str, Callable[[Pair], str | None]] = {
    "teacher": _teacher,
    "one teacher": _one_teacher,
    "linear head": _head,
    "teacher's linear head": _teacher_head,
    "test images": _test,
    "labels and teacher": _both_sides,
    "teacher's classifier on the student's feature": _crossed,
    "other images": _transfer,
    "a setting to sweep": _sweep,
}
"""Need -> what is missing and what to do, ``None`` where the run has it."""
