"""Calibration: whether a network's confidence is the share of samples it gets right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.metrics.contract import check_labelled, check_not_empty


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """A reliability table: confidence and accuracy of the samples, by bins of confidence."""

    edges: Tensor
    """``(bins + 1,)`` from 0 to 1; bin i holds ``edges[i] < confidence <= edges[i + 1]``."""
    count: Tensor
    """``(bins,)`` int64 number of samples."""
    confidence: Tensor
    """``(bins,)`` mean confidence, NaN where the bin is empty."""
    accuracy: Tensor
    """``(bins,)`` share of correct samples, NaN where the bin is empty."""


@torch.no_grad()
def reliability_table(logits: Tensor, target: Tensor, bins: int = 15) -> Reliability:
    """Returns mean confidence and accuracy in bins of equal width over [0, 1].

    Confidence is the largest softmax probability, at temperature 1.

    Args:
        logits: scores of all classes, of the whole set: tables do not add up.
        target: class numbers.
        bins: number of bins.

    Returns:
        The table, its numbers in the logits' precision, at least float32.

    Raises:
        ValueError: a shape or dtype is wrong, there is no sample, ``bins < 1``.

    Shape:
        logits: ``(B, C)``; target: ``(B,)``.

    Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.
    """
    edges, count, confidence, hits = _binned(logits, target, bins)
    return Reliability(edges, count, confidence / count, hits.to(edges.dtype) / count)


@torch.no_grad()
def expected_calibration_error(logits: Tensor, target: Tensor, bins: int = 15) -> Tensor:
    """Returns the mean gap between confidence and accuracy, over bins weighted by their samples.

    Args:
        logits: scores of all classes, of the whole set: the error of a union is not the mean of the errors.
        target: class numbers.
        bins: number of bins of equal width; 15 is usual, and values for other numbers do not compare.

    Returns:
        0-d tensor, a share from 0 to 1 (not percent).

    Raises:
        ValueError: a shape or dtype is wrong, there is no sample, ``bins < 1``.

    Shape:
        logits: ``(B, C)``; target: ``(B,)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.metrics import expected_calibration_error
        >>> sure = torch.tensor([[100.0, 0.0], [100.0, 0.0]])  # certain, right once in two
        >>> float(expected_calibration_error(sure, torch.tensor([0, 1])))
        0.5

    Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.
    """
    _, _, confidence, hits = _binned(logits, target, bins)
    # sums in place of means: the 1/count of a bin's means cancels against its weight count/B
    return (hits - confidence).abs().sum() / logits.shape[0]


@torch.no_grad()
def negative_log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the mean of -log p(true class), in nats.

    Args:
        logits: scores of all classes.
        target: class numbers.

    Returns:
        0-d tensor from 0 up, averaged over the samples.

    Raises:
        ValueError: a shape or dtype is wrong, there is no sample.

    Shape:
        logits: ``(B, C)``; target: ``(B,)``; output: ``()``.
    """
    return F.cross_entropy(_checked(logits, target), target)


@torch.no_grad()
def brier_score(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared distance between the softmax and the one-hot target.

    The sum runs over all classes (Brier's own definition, 0 to 2), not over the target alone and not halved.

    Args:
        logits: scores of all classes.
        target: class numbers.

    Returns:
        0-d tensor from 0 to 2, summed over classes, averaged over the samples.

    Raises:
        ValueError: a shape or dtype is wrong, there is no sample.

    Shape:
        logits: ``(B, C)``; target: ``(B,)``; output: ``()``.

    Reference: Brier, Verification of Forecasts Expressed in Terms of Probability, 1950.
    """
    logits = _checked(logits, target)
    truth = F.one_hot(target, logits.shape[1])  # (B, C)
    return (logits.softmax(dim=1) - truth).square().sum(dim=1).mean()


def _checked(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the logits in at least float32."""
    check_labelled(logits, target)
    check_not_empty(logits, "logits")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _binned(logits: Tensor, target: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns edges, and for each bin its number of samples, sum of confidences and number of hits."""
    logits = _checked(logits, target)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}. The usual number is 15")
    edges = torch.linspace(0, 1, bins + 1, dtype=logits.dtype, device=logits.device)
    confidence = logits.softmax(dim=1).amax(dim=1)  # (B,)
    hit = logits.argmax(dim=1) == target
    # inner edges only: a probability that rounding lifts above 1 stays in the last bin
    bin_of = torch.bucketize(confidence, edges[1:-1])
    # a table and plain sums instead of index_add_, whose float order is not fixed on CUDA
    member = bin_of[:, None] == torch.arange(bins, device=logits.device)  # (B, bins)
    confidence_sum = torch.where(member, confidence[:, None], 0).sum(dim=0)
    return edges, member.sum(dim=0), confidence_sum, (member & hit[:, None]).sum(dim=0)
