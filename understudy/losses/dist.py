"""DIST: match correlations between and within classes instead of values (Huang et al., NeurIPS 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.losses.contract import check_logits, check_temperature, full_precision

# Added to the product of norms; with many classes or a high T it is felt, so it is part of the definition.
_EPS = 1e-8


@full_precision()
def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    r"""Returns T² times one minus the Pearson correlation of probabilities, over rows and over columns.

    .. math:: T^2 [\beta (1 - \mathrm{mean}_i\, r(u_{i:}, v_{i:}))
        + \gamma (1 - \mathrm{mean}_k\, r(u_{:k}, v_{:k}))]

    Args:
        student_logits: what learns; u is its softmax at temperature T.
        teacher_logits: what is learned from (v); detached.
        beta: weight of the relation between classes (one correlation a sample).
        gamma: weight of the relation within a class (one correlation a class, over the batch).
        temperature: T, by which both sides' logits are divided.

    Returns:
        0-d tensor, 0 (up to the eps of the correlation) to 2(β + γ)T². A constant row or column counts 1 with
        zero gradient (with B = 1 all columns are); eps alone below it would mean a gradient of 1e8.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, ``temperature <= 0``.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import dist_loss
        >>> logits = torch.eye(3)
        >>> round(float(dist_loss(logits, logits)), 4)
        0.0

    Reference: Huang, You, Wang, Qian and Xu, Knowledge Distillation from A Stronger Teacher, NeurIPS 2022. T²
    as in the released classification code; its segmentation form has no temperature. The column term is a
    relation over the batch: under data parallelism give it the gathered logits.
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    if student_logits.shape[0] == 0:
        return student_logits.sum()
    student = (student_logits / temperature).softmax(dim=1)
    teacher = (teacher_logits / temperature).softmax(dim=1)
    between = 1 - _correlation(student, teacher, dim=1).mean()
    within = 1 - _correlation(student, teacher, dim=0).mean()
    return (beta * between + gamma * within) * temperature**2


def _correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Returns Pearson's r along ``dim``, with zero gradient where either side is constant up to rounding."""
    a, a_norm, a_flat = _centred(a, dim)
    b, b_norm, b_flat = _centred(b, dim)
    r = (a * b).sum(dim=dim) / (a_norm * b_norm + _EPS)
    return torch.where(a_flat | b_flat, r.detach(), r)


def _centred(p: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns probabilities less their mean, the norm of that, and whether it is no more than rounding."""
    mean = p.mean(dim=dim, keepdim=True)
    centred = p - mean
    norm = torch.linalg.vector_norm(centred, dim=dim)
    rounding = 4 * torch.finfo(p.dtype).eps * p.shape[dim] ** 0.5 * mean.squeeze(dim)
    return centred, norm, norm <= rounding
