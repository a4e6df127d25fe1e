"""How two arms are compared: alternating blocks, the ratio inside a pair, and a control that should read 1.

A round is three blocks next to each other: arm ``a``, arm ``b``, and ``twin``, a second process of arm ``b``. Rounds
alternate their order (a b twin, twin b a, a b twin, ...), so that a machine that gets slower or faster hurts both
alike. The datum of a round is the ratio of its own a and b: what happened at other times does not enter. The ratio of
twin and b is the A/A control: two processes of the same program, so its interval is what this machine calls equal.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
    """Three blocks next to each other."""

    a: Block
    b: Block
    twin: Block


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
            self._process.communicate(timeout=20)  # the end of its input ends the arm
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
    a: Runs, b: Runs, twin: Runs, *, steps: int, pairs: int, deadline: float = math.inf
) -> Iterator[Round]:
    """Yields rounds in alternating order, ``pairs`` of them, or as many (at least one) as begin before ``deadline``."""
    for number in range(pairs):
        if number and time.monotonic() > deadline:
            return
        order = (("a", a), ("b", b), ("twin", twin))
        yield Round(**{name: arm.block(steps) for name, arm in (order if number % 2 == 0 else order[::-1])})


def fresh_rounds(
    start: Callable[[str], Worker], *, steps: int, pairs: int, deadline: float = math.inf
) -> Iterator[Round]:
    """Yields rounds in which every block is the first and only one of a new process: for peaks of memory.

    Args:
        start: returns a new process for ``"a"``, ``"b"`` or ``"twin"``.
        steps: of a block.
        pairs: number of rounds.
        deadline: as in :func:`rounds`.
    """

    class Fresh:
        def __init__(self, name: str) -> None:
            self.name = name

        def block(self, steps: int) -> Block:
            with start(self.name) as worker:
                return worker.block(steps)

    yield from rounds(Fresh("a"), Fresh("b"), Fresh("twin"), steps=steps, pairs=pairs, deadline=deadline)


def choose_steps(arms: Sequence[Runs], *, least: int, seconds: float) -> int:
    """Warms the arms up and returns the steps of a block: at least ``least``, and ``seconds`` for the fastest arm."""
    for arm in arms:
        arm.block(WARM_UP)
    pilots = [arm.block(WARM_UP) for arm in arms]
    fastest = min(p.wall / p.steps for p in pilots)
    return max(least, math.ceil(seconds / fastest))


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Returns the median and the bounds of its bootstrap interval (percentiles of 10,000 resamples, fixed seed)."""
    given = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(0).integers(0, len(given), (10_000, len(given)))
    medians = np.median(given[picks], axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(given)), float(low), float(high)
