"""How arms are compared: a block of each in turn, the ratio inside a round, and a control that should read 1.

A round is one block of every arm. Rounds alternate their order (a b c, c b a, a b c, ...), so that a machine that gets
slower or faster hurts all alike. The datum of a comparison is the ratio of its two arms inside a round: what happened
in other rounds does not enter. One arm runs twice, in two processes, at the two ends of the round: the ratio of the two
is the A/A control, so its interval is what this machine calls equal.

Where its memory happens to lie makes a process a few percent faster or slower for as long as it lives. So all of them
are started anew a few times, and an interval is drawn over starts first, then over the rounds of each.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from arms.setting import Setting

WARM_UP = 3
"""Steps of a process before anything is measured."""
WORKER = Path(__file__).with_name("worker.py")


class ArmError(RuntimeError):
    """An arm's process has ended without an answer."""


@dataclass(frozen=True, slots=True)
class Block:
    """What some steps in a row took."""

    steps: int
    images: int
    wall: float
    """Seconds on the clock."""
    cpu: float
    """Seconds of all the process's threads."""
    checksum: float
    """Sum of the steps' losses: the work was done, and is finite."""
    rss: int
    """Most memory the process ever held, in bytes."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round says of a comparison."""

    a: Block
    b: Block
    control: Block
    """The arm that runs twice, and..."""
    twin: Block
    """...its second process."""
    start: int = 0
    """How often the processes had been started before."""


class Runs(Protocol):
    """What can run a block."""

    def block(self, steps: int) -> Block:
        """Returns what ``steps`` steps took."""
        ...


class Worker:
    """An arm in a long-lived process of its own, warmed up; a context manager."""

    def __init__(self, setting: Setting, threads: int) -> None:
        fixed = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **fixed},
        )
        self._first: dict[str, object] = {"setting": asdict(setting)}

    def block(self, steps: int) -> Block:
        """Returns what ``steps`` steps took; the first call starts the arm, and its block holds that start.

        Raises:
            ArmError: the process has ended; with the last line it wrote.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({**self._first, "steps": steps}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise ArmError(self._last_words()) from None
        line = self._process.stdout.readline()
        if not line:
            raise ArmError(self._last_words())
        self._first = {}
        block = Block(**json.loads(line))
        if not math.isfinite(block.checksum):
            raise ArmError(f"the losses must stay finite, got {block.checksum}")
        return block

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=120)  # the end of its input ends the arm
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"


def rounds(
    arms: Mapping[str, Runs],
    failed: dict[str, str],
    *,
    least: int,
    seconds: float,
    pairs: int,
    deadline: float = math.inf,
) -> Iterator[dict[str, Block]]:
    """Yields rounds in alternating order, ``pairs`` of them, or as many (at least one) as begin before ``deadline``.

    Args:
        arms: by name, in the order of the first round; they are warmed up first.
        failed: is told the last words of an arm that ends; the others go on without it.
        least: steps of a block; more where an arm would take less than
        seconds: for them.
        pairs: number of rounds.
        deadline: on the monotonic clock.
    """
    steps: dict[str, int] = {}
    for name, arm in arms.items():
        try:
            steps[name] = choose_steps(arm, least=least, seconds=seconds)
        except ArmError as error:
            failed[name] = str(error)
    for number in range(pairs):
        if number and time.monotonic() > deadline:
            return
        done: dict[str, Block] = {}
        for name in list(arms) if number % 2 == 0 else reversed(list(arms)):
            if name not in failed:
                try:
                    done[name] = arms[name].block(steps[name])
                except ArmError as error:
                    failed[name] = str(error)
        yield done


class Fresh:
    """An arm whose every block is the first and only one of a new process: for peaks of memory."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        self.start = start

    def block(self, steps: int) -> Block:
        """Returns what ``steps`` steps took, the start included."""
        with self.start() as worker:
            return worker.block(steps)


def choose_steps(arm: Runs, *, least: int, seconds: float) -> int:
    """Warms an arm up and returns the steps of its blocks: at least ``least``, and ``seconds`` of them."""
    if seconds == 0:
        return least
    arm.block(WARM_UP)
    pilot = arm.block(WARM_UP)
    return max(least, math.ceil(seconds * pilot.steps / pilot.wall))


def median_interval(
    values: Sequence[float], starts: Sequence[int] | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """Returns the median and the bounds of its bootstrap interval (percentiles of 10,000 resamples, fixed seed).

    Args:
        values: one a round.
        starts: which start of the processes each is of, by default one for all. A resample draws as many starts as
            there are, and from each as many rounds as it has.
        level: share of the resamples within the bounds.
    """
    given, random = np.asarray(values, dtype=np.float64), np.random.default_rng(0)
    labels = np.zeros(len(given), dtype=int) if starts is None else np.asarray(starts)
    groups = [given[labels == label] for label in np.unique(labels)]
    sizes = np.array([len(group) for group in groups])
    table = np.full((len(groups), sizes.max()), np.nan)
    for row, group in zip(table, groups, strict=True):
        row[: len(group)] = group
    drawn = random.integers(0, len(groups), (10_000, len(groups)))  # starts
    of = sizes[drawn][..., None]
    picks = (random.random((*drawn.shape, sizes.max())) * of).astype(int)  # rounds of each
    resampled = np.where(np.arange(sizes.max()) < of, table[drawn[..., None], picks], np.nan)
    medians = np.nanmedian(resampled.reshape(len(drawn), -1), axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(given)), float(low), float(high)
