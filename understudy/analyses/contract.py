"""What an analysis of a run is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from understudy.report.plots import Plot

Value: TypeAlias = float | int | str | None


class NotApplicableError(ValueError):
    """The run lacks what an analysis needs; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: plain values, one row of names above them."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Value]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one analysis found."""

    numbers: Mapping[str, float]
    """The few that answer the question; NaN where a quotient has nothing to divide by."""
    sheets: Mapping[str, Sheet] = field(default_factory=dict)
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know to read the numbers right."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """One entry of ``ANALYSES``."""

    run: Callable[..., Finding]
    """Takes a :class:`~understudy.analyses.pair.Pair`, or a study folder where it is ``of`` a study."""
    about: str
    """One line: what it tells."""
    source: str
    """Paper and figure or table."""
    cost: str
    """Work, in passes over the images."""
    needs: tuple[str, ...] = ()
    """Keys of ``NEEDS``: what the run must have."""
    of: Literal["run", "study"] = "run"
    asked_only: bool = False
    """Whether it runs only where it is named: it trains, or needs to be told something."""
