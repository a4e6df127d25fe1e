"""What every loss checks of its arguments, and the precision it computes in."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeAlias

import torch
from torch import Tensor

P = ParamSpec("P")
Reduction: TypeAlias = Literal["mean", "none"]

_TEACHER_SIDE = ("teacher_", "class_means", "margin", "previous_feature", "peer_logits")


def full_precision(*, learns: tuple[str, ...] = ()) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Returns a decorator: tensors become at least float32, the teacher's are detached, autocast is off.

    Mixed inputs become the wider of the two; float64 stays. An argument is the teacher's if its name begins
    with ``teacher_`` or is ``class_means``, ``margin``, ``previous_feature`` or ``peer_logits``
    (docs/methods.md, Conventions).

    Args:
        learns: names of teacher-side arguments that are trained after all and keep their gradient.
    """

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        names = tuple(inspect.signature(function).parameters)
        detached = frozenset(n for n in names if n.startswith(_TEACHER_SIDE) and n not in learns)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            dtype, device = torch.float32, "cpu"
            given: tuple[Any, ...] = (*args, *kwargs.values())
            for value in given:
                for tensor in value if isinstance(value, (list, tuple)) else (value,):
                    if isinstance(tensor, Tensor):
                        device = tensor.device.type
                        if tensor.is_floating_point():
                            dtype = torch.promote_types(dtype, tensor.dtype)
            ready = [
                _prepared(value, dtype, name in detached) for name, value in zip(names, args, strict=False)
            ]
            ready += args[len(names) :]  # one argument too many: the call says so
            named = {name: _prepared(value, dtype, name in detached) for name, value in kwargs.items()}
            with torch.autocast(device, enabled=False):
                return function(*ready, **named)  # pyright: ignore[reportCallIssue]

        return run

    return decorate


def _prepared(value: Any, dtype: torch.dtype, detach: bool) -> Any:
    if isinstance(value, (list, tuple)):
        return [_prepared(item, dtype, detach) for item in value]
    if not isinstance(value, Tensor):
        return value
    value = value.to(dtype) if value.is_floating_point() else value
    return value.detach() if detach else value


def reduce(per_sample: Tensor, reduction: Reduction) -> Tensor:
    """Returns ``per_sample`` ``(B,)`` itself, or its mean; the mean of nothing is a connected zero."""
    if reduction == "none":
        return per_sample
    if reduction != "mean":
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}. Choose one of the two")
    return per_sample.mean() if per_sample.shape[0] > 0 else per_sample.sum()


def check_logits(student: Tensor, teacher: Tensor, names: tuple[str, str] = ("student", "teacher")) -> None:
    """Checks two floating ``(B, C)`` tensors of one shape."""
    if student.dim() != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} logits must both have shape (B, C), got {names[0]} "
            f"{tuple(student.shape)} and {names[1]} {tuple(teacher.shape)}. "
            "If the class spaces differ, distil features instead"
        )
    check_floating(**{f"{names[0]}_logits": student, f"{names[1]}_logits": teacher})


def check_same_shape(
    student: Tensor,
    teacher: Tensor,
    *,
    rank: int | None = None,
    what: str = "feature",
    names: tuple[str, str] = ("student", "teacher"),
) -> None:
    """Checks two floating tensors of one shape, and their number of dimensions if ``rank`` is given."""
    if student.shape != teacher.shape or (rank is not None and student.dim() != rank):
        dims = "" if rank is None else f" with {rank} dimensions"
        raise ValueError(
            f"{names[0]} and {names[1]} {what} must have one shape{dims}, got {names[0]} "
            f"{tuple(student.shape)} and {names[1]} {tuple(teacher.shape)}. "
            "Put a projector or connector in between"
        )
    check_floating(**{f"{names[0]}_{what}": student, f"{names[1]}_{what}": teacher})


def check_class_means(student_feature: Tensor, class_means: Tensor) -> None:
    """Checks floating features ``(B, D)`` and class means ``(C, D)`` of one width."""
    if (
        student_feature.dim() != 2
        or class_means.dim() != 2
        or student_feature.shape[1] != class_means.shape[1]
    ):
        raise ValueError(
            "student_feature and class_means must have shapes (B, D) and (C, D), got student_feature "
            f"{tuple(student_feature.shape)} and class_means {tuple(class_means.shape)}. "
            "If the student's D differs, put a projector in between"
        )
    check_floating(student_feature=student_feature, class_means=class_means)


def check_lists(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """Checks that both lists of taps are equally long and not empty."""
    if len(student) != len(teacher) or not student:
        raise ValueError(
            "student and teacher must give equally many features, at least one, "
            f"got {len(student)} and {len(teacher)}. Pair the stages first"
        )


def check_floating(**tensors: Tensor) -> None:
    """Checks that every tensor holds floating-point numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating, got {tensor.dtype}. Convert it with .float()")


def check_temperature(temperature: float) -> None:
    """Checks that a temperature is above 0 and finite."""
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature must be above 0 and finite, got {temperature}. Typical values are 1 to 8"
        )


def check_target(target: Tensor, batch: int, num_classes: int | None = None) -> None:
    """Checks ``(B,)`` int64 class numbers; their range (if C is given) only for CPU tensors in eager mode.

    Reading the range is a host synchronisation on CUDA and a graph break under ``torch.compile``; the engine
    checks labels once, when it reads the data, and calls the unchecked inner functions.
    """
    if target.dtype != torch.int64 or target.shape != (batch,):
        raise ValueError(
            f"target must be int64 of shape ({batch},), got {target.dtype} of shape {tuple(target.shape)}. "
            "Give class numbers, one a sample"
        )
    if num_classes is None or target.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if target.numel() > 0:
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"target must lie in [0, {num_classes}), got {low if low < 0 else high} "
                f"with C = {num_classes}. Check the labels or the number of classes"
            )
