"""Neural collapse: how near the last layer is to the symmetric end state of training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.analysis.contract import check_head
from understudy.analysis.precision import float64
from understudy.losses.contract import check_target

_SMALLEST_EIGENVALUE = 1e-10  # relative to the largest; below it an eigenvalue of Σ_B is rounding


def neural_collapse(
    feature: Tensor, target: Tensor, weight: Tensor, bias: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns how far features and classifier are from neural collapse.

    μ_k are the class means, m_k the same minus their mean; ~ marks a row of length 1.

    Args:
        feature: the classifier's inputs, of a whole data set in eval mode.
        target: class numbers.
        weight: the classifier's rows; not centred.
        bias: the classifier's bias, used by ``nc4`` alone.

    Returns:
        Eleven 0-d float64 tensors, all 0 for a collapsed simplex ETF.

        - ``nc1``: tr(Σ_W Σ_B⁺)/C, spread within classes measured by the spread between them; ``nc1_ratio``:
          trΣ_W/trΣ_B.
        - ``nc2_norm_means``, ``nc2_norm_weights``: standard deviation over mean of the lengths of the m_k, of
          the w_k.
        - ``nc2_angle_means``, ``nc2_angle_weights``: mean distance of the cosines of two rows from -1/(C-1).
        - ``nc2_etf_means``, ``nc2_etf_weights``: distance of the Gram matrix of the m_k, of the w_k, from an
          ETF's, both of Frobenius norm 1.
        - ``nc3``: mean ‖m̃_k - w̃_k‖; ``nc3_frobenius``: the same of both whole matrices, each of Frobenius
          norm 1.
        - ``nc4``: share of samples that the classifier and the nearest class mean put in different classes.

        What would divide by zero because all class means coincide (or all weights are 0) is NaN.

    Raises:
        ValueError: shapes do not fit, a tensor is not floating, ``target`` is wrong, a feature is
            not finite, fewer than two classes are present.

    Shape:
        feature: ``(N, D)``; target: ``(N,)``; weight: ``(C, D)``; bias: ``(C,)``; outputs: ``()``.

    Reference: Papyan, Han and Donoho, Prevalence of Neural Collapse, PNAS 2020. Classes without a sample are
        left out everywhere, their classifier rows too: C then counts the present ones. The ``nc2_etf``
        measures are those of Zhu et al., A Geometric Analysis of Neural Collapse, NeurIPS 2021: of rows as
        they are, so unequal lengths count; rows of length 1 would be another measure.
    """
    check_head(feature, weight, bias)
    check_target(target, feature.shape[0], weight.shape[0])
    if not bool(feature.isfinite().all()):
        raise ValueError("feature must be finite, got NaN or infinity. Look whether the training diverged")
    samples, rows = float64(feature), float64(weight)
    count = torch.zeros(len(rows), dtype=torch.float64, device=samples.device)
    count.index_add_(0, target, torch.ones_like(target, dtype=torch.float64))
    present = count > 0  # (C,)
    if int(present.sum()) < 2:
        raise ValueError("target must hold at least two classes, got fewer. Measure on the whole data set")
    means = torch.zeros_like(rows).index_add_(0, target, samples) / count[:, None]  # (C, D), NaN where absent
    offsets = None if bias is None else float64(bias)[present]
    return _measures(samples - means[target], samples, means[present], rows[present], offsets)


def _measures(
    within: Tensor, samples: Tensor, means: Tensor, rows: Tensor, bias: Tensor | None
) -> dict[str, Tensor]:
    centre = means.mean(dim=0)
    between = means - centre  # m_k, (C, D)
    unit_means, unit_rows = _unit(between), _unit(rows)
    return {
        "nc1": _within_over_between(within, between),
        "nc1_ratio": within.square().sum() / len(within) / (between.square().sum() / len(between)),
        "nc2_norm_means": _relative_spread(between),
        "nc2_norm_weights": _relative_spread(rows),
        "nc2_angle_means": _angle_gap(unit_means),
        "nc2_angle_weights": _angle_gap(unit_rows),
        "nc2_etf_means": _etf_gap(between),
        "nc2_etf_weights": _etf_gap(rows),
        "nc3": (unit_means - unit_rows).norm(dim=1).mean(),
        "nc3_frobenius": (rows / rows.norm() - between / between.norm()).norm(),
        "nc4": _decisions_apart(samples, centre, between, rows, bias),
    }


def _within_over_between(within: Tensor, between: Tensor) -> Tensor:
    """Returns tr(Σ_W Σ_B⁺)/C without a D × D matrix.

    Singular vectors of the m_k are eigenvectors of Σ_B, squared singular values over C its eigenvalues; along
    each of them the variance within classes is that of the samples' coordinate.
    """
    num_classes = len(between)
    _, singular, directions = torch.linalg.svd(between, full_matrices=False)
    eigenvalues = singular.square() / num_classes
    kept = eigenvalues > _SMALLEST_EIGENVALUE * eigenvalues[0]
    variance = (within @ directions[kept].T).square().mean(dim=0)
    total = (variance / eigenvalues[kept]).sum() / num_classes
    return torch.where(kept.any(), total, torch.nan)


def _unit(rows: Tensor) -> Tensor:
    """Returns rows of length 1; a zero row has no direction and stays zero."""
    return F.normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)


def _relative_spread(rows: Tensor) -> Tensor:
    lengths = rows.norm(dim=1)
    return lengths.std(correction=0) / lengths.mean()


def _angle_gap(unit: Tensor) -> Tensor:
    num_classes = len(unit)
    gap = (unit @ unit.T + 1 / (num_classes - 1)).abs()
    return (gap.sum() - gap.diagonal().sum()) / (num_classes * (num_classes - 1))


def _etf_gap(rows: Tensor) -> Tensor:
    gram = rows @ rows.T
    ideal = torch.eye(len(rows), dtype=rows.dtype, device=rows.device) - 1 / len(rows)
    return (gram / gram.norm() - ideal / ideal.norm()).norm()


def _decisions_apart(
    samples: Tensor, centre: Tensor, between: Tensor, rows: Tensor, bias: Tensor | None
) -> Tensor:
    scores = samples @ rows.T  # (N, C)
    decided = (scores if bias is None else scores + bias).argmax(dim=1)
    # with μ_k = μ + m_k, half of -‖h - μ_k‖² is <h, m_k> - <μ, m_k> - ‖m_k‖²/2 plus what all classes share
    nearest = (samples @ between.T - between @ centre - between.square().sum(dim=1) / 2).argmax(dim=1)
    return (decided != nearest).to(torch.float64).mean()
