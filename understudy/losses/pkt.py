"""Probabilistic knowledge transfer: who is near whom in the batch (Passalis and Tefas, 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.losses.contract import full_precision, reduce
from understudy.losses.shapes import check_same_batch
from understudy.widest import widen


@full_precision()
def pkt_loss(student_feature: Tensor, teacher_feature: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Returns the mean over all B² pairs of :math:`t_{ij} \log\frac{t_{ij} + \epsilon}{s_{ij} + \epsilon}`.

    s and t are the similarities ``(cos + 1) / 2`` of the batch, every row divided by its sum (diagonal
    included).

    Args:
        student_feature: what learns.
        teacher_feature: what is learned from; detached. Its width may differ.
        eps: added to every norm and in the logarithm.

    Returns:
        0-d tensor, from 0 up (to about ``eps``).

    Raises:
        ValueError: features are not floating ``(B, D)`` with one B.

    Shape:
        student_feature: ``(B, D_s)``; teacher_feature: ``(B, D_t)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import pkt_loss
        >>> float(pkt_loss(torch.eye(3), torch.eye(3)))
        0.0

    Reference: Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV
    2018: cosine kernel, and the authors' code for ``eps`` and the mean (the paper sums; the weight 30000
    belongs to the mean). The Gram matrix is taken in float64: the loss is a small difference that TF32 would
    drown. A zero vector is equally far from all and gets no gradient.
    """
    check_same_batch(student_feature, teacher_feature, rank=2)
    student, teacher = _similarities(widen(student_feature), eps), _similarities(widen(teacher_feature), eps)
    pairs = teacher * torch.log((teacher + eps) / (student + eps))  # (B, B)
    return reduce(pairs, "mean").to(student_feature.dtype)


def _similarities(feature: Tensor, eps: float) -> Tensor:
    """Returns ``(B, B)`` similarities of the rows, every row with sum 1."""
    norm = torch.linalg.vector_norm(feature, dim=1, keepdim=True)
    direction = feature / torch.where(norm > 0, norm + eps, torch.inf)
    similarity = (direction @ direction.T + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)
