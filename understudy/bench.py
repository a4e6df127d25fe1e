"""How long a step of a config takes, and where the time goes: the real training loop with a stopwatch on its parts."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.build import build, build_job, eval_batches, process
from understudy.clock import clock
from understudy.config import Config, load_config
from understudy.engine.console import Console
from understudy.engine.distiller import Distiller
from understudy.engine.distributed import Ranks
from understudy.engine.ema import MovingAverage
from understudy.engine.loop import Job, fit
from understudy.engine.memory import peak_bytes
from understudy.guidance import asked_in_step, attach_answers, settle_precision, without_auto_tables
from understudy.teacher.assemble import can_answer_ahead
from understudy.teacher.auto import expected_hits

PARTS = ("data", "teacher", "student", "losses", "backward", "optimizer", "loop")
"""What a step is made of. ``backward`` includes the alignment, ``loop`` is all the rest: sums, rates, checkpoints."""
_WARM_UP = 5  # steps before anything is timed
_MIN_STEPS, _MIN_SECONDS = 20, 3.0


def bench(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config, *, quiet: bool = False, **overrides: Any
) -> dict[str, Any]:
    """Measures the training steps of a config; nothing is written to its output folder.

    The loop runs twice for at least 20 steps and 3 seconds: as it is, which gives the time of a step, and with a
    stopwatch that waits for the device at every border, which gives the parts. They are means; the parts add up to
    the second run's step, which is a little slower on a GPU.

    A table of the teacher's answers is used where the config names it (``teacher.table``), as far as it is filled;
    ``auto`` is measured as ``off``, which is what a first epoch is like.

    Args:
        source: a YAML file, a mapping, or a config.
        quiet: print nothing.
        overrides: dotted keys, ``**{"train.batch_size": 128}``.

    Returns:
        ``step_ms``; ``parts_ms`` by :data:`PARTS`, the measured share of a step each; ``images_per_second``;
        ``steps`` timed; ``peak_memory_mib`` (of the GPU, or of this process); ``teacher_share`` of the parts' time,
        from 0 to 1; ``table``, what remembering the teacher's answers would save (``None`` if it cannot be done);
        and ``setting``, what was measured.

    Raises:
        ValueError: the config is wrong, or the training diverged.
    """
    config = without_auto_tables(load_config(source, overrides))
    with process(config) as device, tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        pace, ranks = _Pace(device), Ranks()
        built = build(config, device)
        job = build_job(built, Path(folder), pace, device, threading.Event())
        built = settle_precision(built, job.stream.loader.image_set, ranks)
        built = attach_answers(built, job.stream, Path(folder), ranks)
        job.measure = None  # evaluation is no part of a step
        if job.distiller.needs_prepare:
            job.distiller.prepare(eval_batches(built.data.train, built, device))
        if job.train.ema is not None:
            job.average = MovingAverage(
                job.distiller.live_state, job.train.ema, job.distiller.deployed_names()
            )
        steps, seconds = _run(job, pace)
        watch = Stopwatch(device)
        with _watched(job, watch):
            watched_steps, _ = _run(job, pace, watch)
        parts = {part: 1000 * watch.seconds.get(part, 0.0) / watched_steps for part in PARTS}
        step_ms = 1000 * seconds / steps
        share = parts["teacher"] / max(sum(parts.values()), 1e-9)
        result = {
            "step_ms": step_ms,
            "parts_ms": parts,
            "images_per_second": 1000 * _images_a_step(job) / step_ms,
            "steps": steps,
            "peak_memory_mib": peak_bytes(device) / 2**20,
            "teacher_share": share,
            "table": _table(job, built.config, step_ms, share),
            "setting": _setting(built.config),
        }
        job.stream.close()
        job.distiller.close()
    if not quiet:
        print(describe(result))
    return result


def describe(result: dict[str, Any]) -> str:
    """Returns a result of :func:`bench` as one screen of text."""
    setting, parts = result["setting"], result["parts_ms"]
    whole = sum(parts.values())
    under = f" under {setting['teacher']}" if setting["teacher"] else ""
    lines = [
        f"{setting['student']}{under}: {', '.join(setting['losses'])}; align {setting['align']}",
        f"batch {setting['batch_size']}, {setting['precision']}, {setting['device']}, {setting['threads']} threads, "
        f"torch {torch.__version__}",
        "",
        f"step        {result['step_ms']:9.2f} ms   {result['images_per_second']:,.0f} images/s, "
        f"mean of {result['steps']} steps",
        f"peak memory {result['peak_memory_mib']:9.0f} MiB",
        "",
        "where the time goes (measured in a run of its own, waiting for the device at every border)",
    ]
    names = {"student": "student forward", "backward": "backward, alignment", "optimizer": "optimiser"}
    for part in PARTS:
        lines.append(f"  {names.get(part, part):<20}{parts[part]:9.2f} ms {100 * parts[part] / whole:5.1f}%")
    if setting["teacher"]:
        lines += ["", _advice(result)]
    return "\n".join(lines)


class Stopwatch:
    """Charges every moment to the innermost part that is open; waits for the device at every border."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, part: str) -> None:
        """Opens a part within the present one."""
        self._charge()
        self._open.append(part)

    def leave(self) -> None:
        """Closes the innermost part."""
        self._charge()
        self._open.pop()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Keeps a part open."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def reset(self) -> None:
        """Forgets what was charged so far."""
        self._charge()
        self.seconds.clear()

    def _charge(self) -> None:
        now = clock(self.device)
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


class _EnoughError(Exception):
    """Enough steps have been timed."""


class _Pace(Console):
    """Counts steps where a progress bar would move, and ends the loop after enough of them."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(quiet=True)
        self.device = device
        self.begin(lambda: None)

    def begin(self, started: Callable[[], None]) -> None:
        """Starts anew; ``started`` is called when the warm-up is over."""
        self.steps, self.seconds = -_WARM_UP, 0.0
        self._started = started

    def advance(self) -> None:
        self.steps += 1
        if self.steps == 0:
            self._since = clock(self.device)
            self._started()
        elif self.steps >= _MIN_STEPS and time.perf_counter() - self._since >= _MIN_SECONDS:
            self.seconds = clock(self.device) - self._since
            raise _EnoughError


def _run(job: Job, pace: _Pace, watch: Stopwatch | None = None) -> tuple[int, float]:
    """Trains for long enough, however short an epoch or the recipe is; returns the steps and seconds after warm-up."""
    pace.begin(watch.reset if watch is not None else lambda: None)
    while True:
        job.epoch = job.step = 0
        try:
            if watch is None:
                fit(job)
            else:
                with watch.part("loop"):
                    fit(job)
        except _EnoughError:
            return pace.steps, pace.seconds


@contextmanager
def _watched(job: Job, watch: Stopwatch) -> Iterator[None]:
    """Puts the stopwatch on the parts of a job: hooks on the networks and the optimiser, a wrapper on the loader."""
    distiller: Distiller = job.distiller
    at, backward = job.stream.at, distiller.backward
    handles = [*_hooks(distiller, "losses", watch), *_hooks(distiller.student, "student", watch)]
    for teacher in distiller.guides.teachers.values():
        handles += _hooks(teacher.module, "teacher", watch)
    handles.append(job.optimizer.register_step_pre_hook(lambda *_: watch.enter("optimizer")))
    handles.append(job.optimizer.register_step_post_hook(lambda *_: watch.leave()))

    def timed_backward(*args: Any, **kwargs: Any) -> None:
        with watch.part("backward"):
            backward(*args, **kwargs)

    def timed_at(epoch: int, step: int) -> Any:
        with watch.part("data"):
            return at(epoch, step)

    job.stream.at = timed_at
    distiller.backward = timed_backward
    try:
        yield
    finally:
        job.stream.at, distiller.backward = at, backward
        for handle in handles:
            handle.remove()


def _hooks(module: nn.Module, part: str, watch: Stopwatch) -> list[Any]:
    """Charges a module's forward to a part, of which its parts with names of their own are no part."""
    return [
        module.register_forward_pre_hook(lambda *_: watch.enter(part)),
        module.register_forward_hook(lambda *_: watch.leave()),
    ]


def _images_a_step(job: Job) -> float:
    """Returns the mean over an epoch, whose last batch may be smaller."""
    return statistics.fmean(map(job.stream.loader.global_batch_size, range(job.steps)))


def _table(job: Job, config: Config, step_ms: float, share: float) -> dict[str, float] | None:
    """Returns what a table of the teacher's answers would save; ``None`` where there is no teacher or no table."""
    teachers = job.distiller.guides.teachers.values()
    if (
        not teachers
        or asked_in_step(config) is not None
        or not job.stream.loader.augment.finite
        or not all(can_answer_ahead(t.roles) and not (t.network.detects or t.network.dense) for t in teachers)
    ):
        return None
    hits = expected_hits(job.train.epochs, job.stream.loader.augment.num_views)
    return {
        "warm_step_ms": step_ms * (1 - share),
        "warm_speedup": 1 / max(1 - share, 1e-9),
        "hits_first_run": hits,
        "saved_first_run": hits * share,
    }


def _advice(result: dict[str, Any]) -> str:
    table = result["table"]
    told = f"the teacher takes {result['teacher_share']:.0%} of a step; "
    if table is None:
        return told + "it must show maps or be asked in every step, of which no table keeps the answers"
    return (
        f"{told}a table of its answers would save {table['saved_first_run']:.0%} of the first run\n"
        f"({table['hits_first_run']:.0%} of {result['setting']['epochs']} epochs' views come again), and once it "
        f"is full a step takes {table['warm_step_ms']:.2f} ms ({table['warm_speedup']:.2f} times as fast)"
    )


def _setting(config: Config) -> dict[str, Any]:
    """Returns what was measured."""
    return {
        "student": config.student.model,
        "teacher": " + ".join(guide.model for guide in config.guides.values()) or None,
        "losses": [str(term["name"]) for term in config.losses],
        "align": config.gradients.align,
        "batch_size": config.train.batch_size,
        "epochs": config.train.epochs,
        "precision": config.train.precision,
        "device": config.train.device,
        "threads": config.train.threads,
    }
