"""Batches and the teachers' answers to them, by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from understudy.data.loader import TrainLoader
from understudy.interface import Batch, Outputs
from understudy.teacher.answers import Answers


@dataclass
class Stream:
    """What every step of a run is shown.

    Students in lockstep share one: the first to reach a step makes its batch, and the others are given the same.
    """

    loader: TrainLoader
    answers: Mapping[str, Answers] = field(default_factory=dict)
    """Teachers whose answers do not wait for the student, by name; the others are asked in the step."""
    asked: Callable[[int], set[str]] = lambda epoch: set()
    """Names of the teachers that any term reads in an epoch (from 0)."""

    def __post_init__(self) -> None:
        self._next: tuple[int, int] | None = None
        self._items: Iterator[tuple[Batch, dict[str, Outputs]]] = iter(())
        self._latest: tuple[Batch, dict[str, Outputs]] | None = None

    def at(self, epoch: int, step: int) -> tuple[Batch, dict[str, Outputs]]:
        """Returns the batch of a step (both from 0) and what the teachers show of it.

        Steps in order cost nothing extra; so does the last one, asked for again.
        """
        if self._latest is not None and self._next == (epoch, step + 1):
            return self._latest
        if self._next != (epoch, step):
            self._items = self._from(epoch, step)
        self._latest = next(self._items)
        self._next = epoch, step + 1
        return self._latest

    def close(self) -> None:
        """Closes the tables behind the answers and ends what loads ahead; a second time does nothing."""
        self._items, self._latest, self._next = iter(()), None, None
        for answers in self.answers.values():
            answers.close()

    def _from(self, epoch: int, step: int) -> Iterator[tuple[Batch, dict[str, Outputs]]]:
        asked = self.asked(epoch)
        known = {name: a.epoch(epoch, step) for name, a in self.answers.items() if name in asked}
        for batch in self.loader.epoch(epoch, step):
            yield batch, {name: next(shown) for name, shown in known.items()}
