"""Activation boundaries: the student fires where the teacher fires (Heo et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.losses.contract import check_lists, check_same_shape, full_precision

SCALE = 0.003
"""The authors' factor; with it the published weight is 1."""


@full_precision()
def ab_loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], margin: float = 1.0
) -> Tensor:
    """Returns the squared hinge distance to the teacher's side of 0, with a margin.

    Where the teacher is silent (t <= 0) a student above -margin pays ``(s + margin)²``; where it fires, a
    student at or below margin pays ``(s - margin)²``. Summed over elements, averaged over the batch, times
    0.003, stage k of n times 2^{-(n-k)}, summed over stages.

    Args:
        student_features: maps before the activation, shallow to deep, at the teacher's shapes (connectors).
        teacher_features: the teacher's; detached.
        margin: how far beyond 0 is far enough.

    Returns:
        0-d tensor, from 0 up. Not 0 for a student equal to its teacher.

    Raises:
        ValueError: lists differ in length or are empty, shapes differ, features are not floating.

    Shape:
        stage k of both: ``(B, C_k, H_k, W_k)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import ab_loss
        >>> round(float(ab_loss([torch.tensor([[0.0, 2.0]])], [torch.tensor([[-1.0, 1.0]])])), 4)
        0.003

    Reference: Heo et al., Knowledge Transfer via Distillation of Activation Boundaries, AAAI 2019, and the
    authors' code for the factors.
    """
    check_lists(student_features, teacher_features)
    losses: list[Tensor] = []
    num_stages = len(student_features)
    for k, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True), start=1):
        check_same_shape(student, teacher)
        fires = teacher > 0
        too_high = (student + margin) * (~fires & (student > -margin))
        too_high = torch.where(teacher.isnan(), torch.nan, too_high)  # which does not fire, and is not silent
        too_low = (student - margin) * (fires & (student <= margin))
        total = (too_high + too_low).square().sum()  # never both at one element
        losses.append(total * (SCALE * 2.0 ** (k - num_stages) / max(student.shape[0], 1)))
    return torch.stack(losses).sum()
