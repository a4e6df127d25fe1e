"""Numbers that change by epoch: a term's weight, or any of a method's own numbers."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from understudy.interface import NonNegative, Search


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """A number that is linear between given epochs, and constant before the first and after the last.

    In a config: ``temperature: {points: [[1, 8.0], [60, 2.0]]}``. Epochs are 1-based, as in files and text.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        epochs = [epoch for epoch, _ in self.points]
        if not epochs or epochs[0] < 1 or any(b <= a for a, b in pairwise(epochs)):
            raise ValueError(
                f"points must be pairs (epoch, value) with growing epochs from 1 up, got {list(self.points)}. "
                "Example: [[1, 8.0], [60, 2.0]]"
            )

    def at(self, epoch: int) -> float:
        """Returns the number in an epoch (0-based, as in code)."""
        number = epoch + 1
        place = bisect_right([e for e, _ in self.points], number)
        if place == 0 or place == len(self.points):
            return self.points[min(place, len(self.points) - 1)][1]
        (first, low), (last, high) = self.points[place - 1 : place + 1]
        return low + (high - low) * (number - first) / (last - first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight by epoch. All epochs in the fields are 1-based, as in files and text."""

    value: Annotated[NonNegative, Search(0.25, 4.0, of_value=True)] = 1.0
    warmup_epochs: int = 0
    """The weight grows linearly over this many epochs."""
    warmup_start: Literal[0, 1] = 1
    """Whether the ramp's epochs count from 1 (DKD, ReviewKD) or from 0 (KD++: the first epoch has weight 0)."""
    from_epoch: int = 1
    """First epoch of the term; its ramp counts from here."""
    until_epoch: int | None = None
    """Last epoch of the term."""
    restart_epoch: int | None = None
    """Epoch after ``until_epoch`` from which the term is back, at full weight."""
    points: tuple[tuple[int, NonNegative], ...] | None = None
    """Factors by epoch, linear in between (:class:`Points`), on top of all of this."""

    def __post_init__(self) -> None:
        if self.until_epoch is not None and self.until_epoch < self.from_epoch:
            raise ValueError(
                f"a weight must not end before it starts, got from_epoch {self.from_epoch} and until_epoch "
                f"{self.until_epoch}. Make until_epoch the larger"
            )
        if self.restart_epoch is not None and (
            self.until_epoch is None or self.restart_epoch <= self.until_epoch
        ):
            raise ValueError(
                f"restart_epoch must come after until_epoch, got {self.restart_epoch} and {self.until_epoch}. "
                "Give both, the restart the larger"
            )
        if self.warmup_epochs < 0 or self.from_epoch < 1:
            raise ValueError(
                f"warmup_epochs must be at least 0 and from_epoch at least 1, got {self.warmup_epochs} and "
                f"{self.from_epoch}. Epochs in a config count from 1"
            )
        if self.points is not None:
            Points(points=self.points)

    def at(self, epoch: int) -> float:
        """Returns the weight in an epoch (0-based, as in code)."""
        number = epoch + 1
        value = self.value if self.points is None else self.value * Points(points=self.points).at(epoch)
        if self.restart_epoch is not None and number >= self.restart_epoch:
            return value
        if number < self.from_epoch or (self.until_epoch is not None and number > self.until_epoch):
            return 0.0
        if self.warmup_epochs == 0:
            return value
        return value * min(1.0, (number - self.from_epoch + self.warmup_start) / self.warmup_epochs)
