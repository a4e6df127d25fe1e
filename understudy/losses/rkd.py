"""Relational knowledge distillation: distances and angles between samples (Park et al., 2019)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from understudy.losses.contract import full_precision
from understudy.losses.shapes import check_same_batch
from understudy.widest import widen

WHOLE_BATCH = 128
"""Largest batch that is computed in one piece; above it, in pieces of as many pairs."""

T = TypeVar("T")


@full_precision()
def rkd_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    r"""Returns the smooth-L1 difference of all pairwise distances and of all angles in the batch.

    .. math::
        w_d \, \overline{\ell(d^s_{ij}, d^t_{ij})} + w_a \, \overline{\ell(a^s_{ijk}, a^t_{ijk})}, \qquad
        d_{ij} = \frac{\|f_i - f_j\|}{\text{mean over } i \ne j}, \quad
        a_{ijk} = \left\langle \frac{f_j - f_i}{\|f_j - f_i\|}, \frac{f_k - f_i}{\|f_k - f_i\|} \right\rangle

    averaged over all B² pairs and all B³ triples, degenerate ones included.

    Args:
        student_feature: what learns.
        teacher_feature: what is learned from; detached. Its width may differ.
        distance_weight: w_d.
        angle_weight: w_a.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: features are not floating ``(B, D)`` with one B, or B < 2.

    Shape:
        student_feature: ``(B, D_s)``; teacher_feature: ``(B, D_t)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import rkd_loss
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> round(float(rkd_loss(3 * square + 5, square)), 6)  # scale and place do not matter
        0.0

    Reference: Park et al., Relational Knowledge Distillation, CVPR 2019: distance-wise and angle-wise loss.
    The angle is computed from the squared distances by the law of cosines, in float64: equal to the inner
    product, without a matrix product (so without TF32) and in O(B³) instead of O(B³ D). Equal samples give an
    angle of 0 and no gradient; the released normalisation gives them a gradient of 1e12. Above 128 samples
    the work is done in pieces and repeated in the backward pass, so memory grows with B, not with B³.
    """
    check_same_batch(student_feature, teacher_feature, rank=2)
    if student_feature.shape[0] < 2:
        raise ValueError(
            f"rkd must have at least 2 samples, got {student_feature.shape[0]}. "
            "Choose a batch size that leaves no single image, or drop the last batch"
        )
    student, teacher = _squared_distances(widen(student_feature)), _squared_distances(widen(teacher_feature))
    distance = F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))
    loss = distance_weight * distance + angle_weight * _angle_difference(student, teacher)
    return loss.to(student_feature.dtype)


def _squared_distances(feature: Tensor) -> Tensor:
    """Returns ``(B, B)`` squared distances of ``(B, D)``, from differences: exactly 0 for equal rows."""

    def of_rows(rows: Tensor) -> Tensor:
        return torch.cdist(rows, feature, compute_mode="donot_use_mm_for_euclid_dist").square()

    return torch.cat(_in_pieces(of_rows, feature))


def _relative_distances(squared: Tensor) -> Tensor:
    """Returns ``(B, B)`` distances in units of their mean over i ≠ j, 0 on the diagonal."""
    num = squared.shape[0]
    off_diagonal = 1 - torch.eye(num, dtype=squared.dtype, device=squared.device)
    distance = squared.clamp(min=1e-12).sqrt() * off_diagonal
    return distance / (distance.sum() / (num * (num - 1)))


def _angle_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean over all i, j, k of the smooth-L1 difference of angles at i, given distances²."""

    def of_rows(rows: Tensor) -> Tensor:
        student_rows, teacher_rows = rows.unbind(dim=1)
        return F.smooth_l1_loss(
            _cosines(student_rows, student), _cosines(teacher_rows, teacher), reduction="sum"
        )

    pieces = _in_pieces(of_rows, torch.stack([student, teacher], dim=1))
    return torch.stack(pieces).sum() / student.shape[0] ** 3


def _cosines(rows: Tensor, squared: Tensor) -> Tensor:
    """Returns ``(b, B, B)`` cosines at i between j and k, for rows i ``(b, B)`` of ``squared`` ``(B, B)``."""
    apart = rows > 1e-24  # a distance of 1e-12, below which the paper's code shrinks the direction as well
    inverse = torch.where(apart, torch.where(apart, rows, 1.0).rsqrt(), 0.0)  # 1 / d_ij
    inner = (rows.unsqueeze(2) + rows.unsqueeze(1) - squared.unsqueeze(0)) / 2
    return inner * inverse.unsqueeze(2) * inverse.unsqueeze(1)


def _in_pieces(function: Callable[[Tensor], T], rows: Tensor) -> list[T]:
    """Returns ``function`` of all rows, or of pieces with as many pairs as ``WHOLE_BATCH`` samples have."""
    num = rows.shape[0]
    if num <= WHOLE_BATCH:
        return [function(rows)]
    pieces = rows.split(max(1, WHOLE_BATCH**2 // num))
    return [checkpoint(function, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
