"""Comparing two methods over seeds: differences with intervals, and the sentence that says what they mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# scipy comes with scikit-learn; scipy.stats has the same quantile but slows every start of the program
from scipy.special import stdtrit

_LEAST = 1e-6
"""Points: no interval is so narrow. Two seeds that differ by the same one image would make it so."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What several seeds of one method say."""

    n: int
    """Number of seeds."""
    mean: float
    std: float | None
    """Sample standard deviation (divisor n - 1); ``None`` for one seed."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one method lies above another, and how sure that is.

    The interval speaks of seeds: what would change if the same data and recipe were run again. It does not
    know of other data sets. Where a study draws many of them, one in twenty 95% intervals misses by chance.
    """

    kind: Literal["paired", "welch", "plain"]
    """Paired by seed; unpaired with unequal variances; unpaired without an interval."""
    n: tuple[int, int]
    """Seeds of the method and of the other; equal if paired."""
    mean: float
    """Method minus other, in the unit of the values."""
    half_width: float | None
    """The interval is ``mean ± half_width``; ``None`` where there is nothing to estimate it from: one seed, or several
    that all have one difference by chance."""
    wins: int | None = None
    """Seeds on which the method lies above the other; ``None`` if unpaired."""
    ties: int | None = None
    """Seeds on which both are equal; ``None`` if unpaired."""

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval excludes 0; never without an interval, or with one that has no width."""
        return self.half_width is not None and self.half_width < abs(self.mean)


def summarise(values: Sequence[float]) -> Summary:
    """Returns number, mean and sample standard deviation of one method's results.

    Args:
        values: one result a seed.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    _check(values, "values")
    std = statistics.stdev(values) if len(values) > 1 else None
    return Summary(len(values), statistics.fmean(values), std)


def difference(
    values: Mapping[int, float], other: Mapping[int, float], confidence: float = 0.95
) -> Difference:
    """Returns the difference of two methods, paired by seed wherever the seeds allow it.

    With the same seeds, or at least two in common, the common seeds are compared in pairs (``n`` says how
    many). Otherwise all results enter an unpaired difference.

    Args:
        values: result of the method by seed.
        other: result of the other by seed.
        confidence: coverage of the interval.

    Returns:
        The difference, in the unit of the values.

    Raises:
        ValueError: a side is empty, a value is not finite, ``confidence`` is not between 0 and 1.

    Example:
        >>> from understudy.metrics import difference, verdict
        >>> dhkd, kd = {0: 76.4, 1: 76.7, 2: 76.5}, {0: 75.2, 1: 75.4, 2: 75.3}
        >>> verdict("DHKD", "KD", difference(dhkd, kd))
        'DHKD better than KD by 1.2 ± 0.1 points (3 seeds)'
    """
    shared = sorted(values.keys() & other.keys())
    if len(shared) > 1 or values.keys() == other.keys():
        return paired_difference([values[s] for s in shared], [other[s] for s in shared], confidence)
    return unpaired_difference(list(values.values()), list(other.values()), confidence)


def paired_difference(
    values: Sequence[float], other: Sequence[float], confidence: float = 0.95
) -> Difference:
    """Returns the mean of the differences by seed, with Student's t-interval.

    What a seed does to both methods (data order, initial weights) cancels, so pairs need fewer seeds.

    Args:
        values: results of the method.
        other: results of the other, in the same order of seeds.
        confidence: coverage of the interval.

    Returns:
        The difference; without an interval for one seed.

    Raises:
        ValueError: lengths differ, a side is empty, a value is not finite, ``confidence`` is not between 0
            and 1.
    """
    _check(values, "values")
    _check(other, "other")
    _check_confidence(confidence)
    if len(values) != len(other):
        raise ValueError(
            f"paired results must be equally many, got {len(values)} and {len(other)}. "
            "Use unpaired_difference where the seeds differ"
        )
    n = len(values)
    gaps = [a - b for a, b in zip(values, other, strict=True)]
    spread = statistics.stdev(gaps) / math.sqrt(n) if n > 1 else None
    mean = statistics.fmean(gaps)
    return Difference(
        kind="paired",
        n=(n, n),
        mean=mean,
        half_width=None if spread is None else _half_width(mean, spread * _quantile(n - 1, confidence)),
        wins=sum(gap > 0 for gap in gaps),
        ties=sum(gap == 0 for gap in gaps),
    )


def unpaired_difference(
    values: Sequence[float], other: Sequence[float], confidence: float = 0.95
) -> Difference:
    """Returns the difference of the means, with Welch's interval if both sides have at least two seeds.

    Args:
        values: results of the method.
        other: results of the other; number and order are free.
        confidence: coverage of the interval.

    Returns:
        The difference; of kind ``"plain"``, without an interval, where a side has one seed.

    Raises:
        ValueError: a side is empty, a value is not finite, ``confidence`` is not between 0 and 1.

    Reference: Welch, The Generalization of "Student's" Problem when Several Different Population Variances
        are Involved, 1947 (degrees of freedom after Satterthwaite).
    """
    _check(other, "other")
    _check_confidence(confidence)
    a, b = summarise(values), summarise(other)
    mean, n = a.mean - b.mean, (a.n, b.n)
    if a.std is None or b.std is None:
        return Difference("plain", n, mean, None)
    variance_a, variance_b = a.std**2 / a.n, b.std**2 / b.n  # of the two means
    variance = variance_a + variance_b
    if variance == 0:
        return Difference("welch", n, mean, _half_width(mean, 0.0))
    share_a, share_b = variance_a / variance, variance_b / variance
    freedom = 1 / (share_a**2 / (a.n - 1) + share_b**2 / (b.n - 1))
    return Difference("welch", n, mean, math.sqrt(variance) * _quantile(freedom, confidence))


def _half_width(mean: float, found: float) -> float | None:
    """Returns half of an interval's width, ``None`` if it is 0 up to rounding around a mean that is not."""
    return None if found <= _LEAST and mean != 0 else found


def verdict(name: str, other: str, difference: Difference) -> str:
    """Returns the difference as a plain sentence; values are percentages of which more is better.

    Digits are added where one would make the sentence contradict its numbers.

    Args:
        name: the method.
        other: what it is compared with.
        difference: method minus other, in percentage points.

    Example:
        >>> from understudy.metrics import paired_difference, verdict
        >>> verdict("DHKD", "KD", paired_difference([70.1, 70.4, 70.0], [70.2, 70.0, 70.0]))
        'DHKD and KD: within noise (0.1 ± 0.7 points, 3 seeds)'
        >>> verdict("DHKD", "KD", paired_difference([70.8], [70.0]))
        'DHKD and KD: one seed says nothing about noise (difference 0.8 points)'
    """
    if difference.half_width is None:
        size, seeds = _number(difference.mean, 1), min(difference.n)
        if seeds == 1:
            return f"{name} and {other}: one seed says nothing about noise (difference {size} points)"
        return f"{name} and {other}: {seeds} seeds, all with one difference, say nothing about noise ({size} points)"
    digits = _digits(difference.mean, difference.half_width)
    interval = f"± {_number(difference.half_width, digits)} points"
    first, second = difference.n
    seeds = f"{first} seeds" if difference.kind == "paired" else f"{first} and {second} seeds, unpaired"
    if not difference.beyond_noise:
        return f"{name} and {other}: within noise ({_number(difference.mean, digits)} {interval}, {seeds})"
    word = "better" if difference.mean > 0 else "worse"
    return f"{name} {word} than {other} by {_number(abs(difference.mean), digits)} {interval} ({seeds})"


def _digits(mean: float, half_width: float) -> int:
    """Returns how many decimals keep the order of the two numbers when both are rounded, from 1 to 4."""
    for digits in (1, 2, 3):
        if (round(abs(mean), digits) > round(half_width, digits)) == (abs(mean) > half_width):
            return digits
    return 4


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def _quantile(freedom: float, confidence: float) -> float:
    """Returns the two-sided quantile of Student's t distribution."""
    return float(stdtrit(freedom, (1 + confidence) / 2))


def _check(values: Sequence[float], name: str) -> None:
    if len(values) == 0:
        raise ValueError(f"{name} must hold a result for at least one seed, got none. Run the method first")
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}. Leave the diverged run out and report it")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}. The usual value is 0.95")
