"""What every metric of labelled predictions checks of its arguments."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.contract import check_floating, check_target


def check_labelled(logits: Tensor, target: Tensor, name: str = "logits") -> None:
    """Checks floating logits ``(B, C)`` and the int64 class number of each sample.

    Args:
        logits: scores of all classes.
        target: class numbers; their range is checked for CPU tensors in eager mode only.
        name: what the caller calls its logits.

    Raises:
        ValueError: ``logits`` are not ``(B, C)`` or not floating; ``target`` is not int64 ``(B,)`` or leaves
            [0, C).
    """
    if logits.dim() != 2:
        raise ValueError(
            f"{name} must have shape (B, C), got {tuple(logits.shape)}. "
            "Move the classes to the second dimension"
        )
    check_floating(**{name: logits})
    check_target(target, logits.shape[0], logits.shape[1])


def check_not_empty(tensor: Tensor, name: str) -> None:
    """Checks that there is a sample to average over.

    Raises:
        ValueError: the first dimension is 0.
    """
    if tensor.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one sample, got none. A mean over nothing says nothing")
