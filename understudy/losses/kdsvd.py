"""Distillation of singular vectors: how the main directions of channels change (Lee, Kim and Song, 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from understudy.losses.contract import check_lists, full_precision
from understudy.losses.numerics import unit
from understudy.losses.shapes import check_same_batch
from understudy.widest import widen

SPARE = 3
"""How many more vectors than the teacher's the student offers to be matched."""
GAP = 1e-6
"""Share of the largest eigenvalue below which an eigenvalue, or the gap of two, counts as 0."""


@full_precision()
def kdsvd_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], k: int = 1) -> Tensor:
    """Returns the squared difference of how singular vectors move from tap to tap, averaged over the batch.

    Every sample's map is a matrix (space × channels) with right singular vectors. The teacher's first ``k``
    are matched with the student's first ``k + 3`` by the largest absolute cosine, the student's taking the
    teacher's sign; both are scaled by the teacher's singular values (normalised over the ``k``). Between
    consecutive taps a and b the feature is ``exp(-(v_a - v_b)² / 8)`` for every pair of channels and each
    vector.

    Args:
        student_features: maps that learn, shallow to deep, two or more.
        teacher_features: their counterparts with the same channels; detached. Sizes may differ.
        k: number of the teacher's vectors, 1 or more.

    Returns:
        0-d tensor, from 0 up: summed over channel pairs, vectors and consecutive taps. Entries that are not
        finite are dropped.

    Raises:
        ValueError: lists differ in length or are shorter than 2, a feature is not a floating
            ``(B, C, H, W)``, channels differ, ``k < 1``.

    Shape:
        tap i: ``(B, C_i, H_s, W_s)`` and ``(B, C_i, H_t, W_t)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import kdsvd_loss
        >>> maps = [torch.arange(16.0).view(1, 4, 2, 2), torch.ones(1, 2, 2, 2)]
        >>> float(kdsvd_loss(maps, [2 * m for m in maps])) < 1e-6  # scale does not matter
        True

    Reference: Lee, Kim and Song, Self-supervised Knowledge Distillation Using Singular Value Decomposition,
    ECCV 2018. Deviations: the teacher's vectors get the sign that makes their components sum to 0
    or more (a decomposition leaves it open), and the gradient is the exact first-order one except that
    directions of (nearly) equal singular values do not turn into each other, where it does not exist and the
    released code yields NaN.
    """
    _check(student_features, teacher_features, k)
    student_vectors: list[Tensor] = []
    teacher_vectors: list[Tensor] = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        values, own = _leading(teacher, k)
        own = own * torch.where(own.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
        scale = unit(values).unsqueeze(1)
        teacher_vectors.append(own * scale)
        student_vectors.append(_matched(_leading(student, k + SPARE)[1], own) * scale)
    total = student_features[0].new_zeros(())
    for student, teacher in zip(pairwise(student_vectors), pairwise(teacher_vectors), strict=True):
        squared = (_movement(*student) - _movement(*teacher)).square()
        total = total + torch.where(squared.isfinite(), squared, 0.0).sum().to(total.dtype)
    return total / max(student_features[0].shape[0], 1)


def _leading(feature: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the first n singular values ``(B, n)`` and right vectors ``(B, C, n)`` of maps, in float64.

    n is min(count, H·W, C). The values carry no gradient. The vectors do, without differentiating a
    decomposition: a leading eigenvector v of M = FᵀF turns, to first order, by (λ - M)⁺ dM v.
    """
    matrix = widen(feature).flatten(2).mT  # (B, H·W, C)
    eigenvalues, basis = _eigenvectors(matrix.detach())
    count = min(count, basis.shape[2])
    finite = matrix.detach().isfinite().all(dim=2).all(dim=1).view(-1, 1, 1)
    lead, vectors = eigenvalues[:, :count], torch.where(finite, basis[:, :, :count], torch.nan)
    if not matrix.requires_grad:
        return lead.sqrt(), vectors
    image = matrix.mT @ (matrix @ vectors)  # (B, C, n): M v
    change = image - image.detach()  # zero in value, dM v in gradient
    floor = GAP * eigenvalues[:, :1]  # (B, 1)
    gap = lead.unsqueeze(1) - eigenvalues.unsqueeze(2)  # (B, r, n)
    parts = basis.mT @ change
    turned = basis @ (parts * _inverse(gap, floor.unsqueeze(2)))
    rest = (change - basis @ parts) * _inverse(lead, floor).unsqueeze(1)  # along eigenvectors of eigenvalue 0
    return lead.sqrt(), vectors + turned + rest


def _eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns eigenvalues ``(B, r)``, largest first, and eigenvectors ``(B, C, r)`` of FᵀF, F ``(B, N, C)``.

    r is min(N, C): the smaller of FᵀF and FFᵀ is decomposed. Vectors of eigenvalue 0 may be zero.
    """
    matrix = torch.where(matrix.isfinite(), matrix, 0.0)  # eigh would raise; the caller marks such samples
    wide = matrix.shape[1] < matrix.shape[2]
    values, vectors = torch.linalg.eigh(matrix @ matrix.mT if wide else matrix.mT @ matrix)
    values, vectors = values.flip(1).clamp(min=0), vectors.flip(2)
    if wide:
        vectors = unit(matrix.mT @ vectors, dim=1)
        vectors = torch.where((values > GAP**2 * values[:, :1]).unsqueeze(1), vectors, 0.0)
    return values, vectors


def _inverse(x: Tensor, floor: Tensor) -> Tensor:
    """Returns ``1 / x``, and 0 where the absolute value of ``x`` does not exceed ``floor``."""
    safe = x.abs() > floor
    return torch.where(safe, 1 / torch.where(safe, x, 1.0), 0.0)


def _matched(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns for each teacher vector ``(B, C, k)`` the student's of largest cosine, sign matched."""
    cosine = student.mT @ teacher  # (B, k+3, k)
    best = cosine.detach().abs().argmax(dim=1, keepdim=True)  # (B, 1, k)
    sign = cosine.detach().gather(1, best).sign()
    return student.gather(2, best.expand(-1, student.shape[1], -1)) * sign


def _movement(first: Tensor, second: Tensor) -> Tensor:
    """Returns ``(B, C_a, C_b, k)`` radial basis features of vectors ``(B, C_a, k)`` and ``(B, C_b, k)``."""
    k = min(first.shape[2], second.shape[2])
    return torch.exp(-(first[:, :, None, :k] - second[:, None, :, :k]).square() / 8)


def _check(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], k: int) -> None:
    check_lists(student_features, teacher_features)
    if len(student_features) < 2:
        raise ValueError("kdsvd must have at least 2 taps, got 1. Add another stage")
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}. The published value is 1")
    for student, teacher in zip(student_features, teacher_features, strict=True):
        check_same_batch(student, teacher, rank=4)
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(
                f"kdsvd must have equal channels, got student {tuple(student.shape)} and teacher "
                f"{tuple(teacher.shape)}. Choose a teacher of the same width, or another method"
            )
