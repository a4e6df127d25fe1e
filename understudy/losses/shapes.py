"""What the losses on unequal shapes ask of them, and how the larger of two maps is made to fit."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_floating


def check_same_batch(
    student: Tensor, teacher: Tensor, *, rank: int | None = None, what: str = "feature"
) -> None:
    """Checks two floating tensors of one batch size, of ``rank`` dimensions if given, else of two or more.

    Raises:
        ValueError: the batch sizes or the numbers of dimensions do not fit, or the tensors are not floating.
    """
    fits = all(x.dim() == rank if rank is not None else x.dim() >= 2 for x in (student, teacher))
    if not fits or student.shape[0] != teacher.shape[0]:
        dims = f"{rank} dimensions" if rank is not None else "two dimensions or more"
        raise ValueError(
            f"student and teacher {what} must have {dims} and one batch size, got student "
            f"{tuple(student.shape)} and teacher {tuple(teacher.shape)}. "
            "Tap both networks at a place that gives such a tensor"
        )
    check_floating(**{f"student_{what}": student, f"teacher_{what}": teacher})


def pool_to(x: Tensor, height: int, width: int) -> Tensor:
    """Returns the map ``x`` ``(B, C, H, W)`` averaged down to ``(B, C, height, width)``.

    Sizes that divide evenly take the plain average pooling, which equals the adaptive one there and whose
    backward is deterministic on CUDA.
    """
    h, w = x.shape[2:]
    if (h, w) == (height, width):
        return x
    if h % height == 0 and w % width == 0:
        return F.avg_pool2d(x, kernel_size=(h // height, w // width))
    return F.adaptive_avg_pool2d(x, (height, width))


def pool_larger(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both maps at the smaller height and the smaller width of the two."""
    height, width = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    return pool_to(first, height, width), pool_to(second, height, width)
