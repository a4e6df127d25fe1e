"""Many runs, one after another or several at once, each at most once: what a study hands its work to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.config import Config
from understudy.data.undecoded import cores
from understudy.engine.divergence import DivergedError
from understudy.engine.loop import InterruptedRunError, stopped_by_signals
from understudy.files import locked, write_text
from understudy.job import outcome
from understudy.run import distill, train
from understudy.tasks import task_named

_PAUSE = 0.1  # seconds between two looks at the workers
_STUCK = 60.0  # seconds after which an interrupted worker is ended by force


@dataclass(frozen=True, slots=True)
class Task:
    """One run: its folder is ``config.output``."""

    label: str
    """For messages."""
    verb: str
    """``train`` or ``distill``; a worker takes any verb of the command line."""
    config: Config
    options: tuple[str, ...] = ()
    """More of the worker's command line."""
    runs: int = 1
    """Of ``distill``: how many tasks, this one counted, ask their teacher alike (:func:`understudy.distill`)."""

    @property
    def command(self) -> tuple[str, ...]:
        """What a worker's command line says beside the verb and the config."""
        return (*self.options, *(("--runs", str(self.runs)) if self.verb == "distill" else ()))


@dataclass
class Runs:
    """Runs tasks; what is finished (or diverged) with the same config is taken as it is, what is begun goes on.

    A run that another process holds is waited for, not taken.

    Args:
        tasks: each with an output folder of its own.
        workers: 1 runs them in this process; more, in so many processes at once, each with an equal share of the
            cores unless ``train.threads`` says otherwise.
        say: where a line of news goes.
        quiet: whether a run in this process prints nothing.
    """

    tasks: Sequence[Task]
    workers: int
    say: Callable[[str], None]
    quiet: bool = True
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Task's number -> content of its ``result.json``."""

    def __call__(self) -> list[dict[str, Any]]:
        """Returns the content of every task's ``result.json``, in order.

        Raises:
            InterruptedRunError: asked to stop; every run that was under way has left a checkpoint.
            ValueError: a run cannot be started as it is configured.
        """
        waiting = [i for i in range(len(self.tasks)) if not self._known(i)]
        if self.results:
            self.say(f"{len(self.results)} of {len(self.tasks)} runs are there already")
        if self.workers == 1 or len(waiting) < 2:
            self._one_by_one(waiting)
        else:
            self._at_once(waiting)
        return [self.results[i] for i in range(len(self.tasks))]

    def _known(self, number: int) -> bool:
        """Returns whether a task's result is there, and notes it."""
        found = outcome(self.tasks[number].config)
        if found is not None:
            self.results[number] = found
        return found is not None

    def _one_by_one(self, waiting: list[int]) -> None:
        stop = threading.Event()
        with stopped_by_signals(stop):
            for number in waiting:
                task = self.tasks[number]
                while not stop.is_set() and is_held(Path(task.config.output)):
                    time.sleep(_PAUSE)
                if stop.is_set():
                    raise InterruptedRunError
                if self._known(number):
                    continue
                if not self.quiet:
                    self.say(f"— {task.label}")
                with suppress(DivergedError):  # its folder says so
                    if task.verb == "train":
                        train(task.config, quiet=self.quiet)
                    else:
                        distill(task.config, quiet=self.quiet, runs=task.runs)
                self._known(number)
                self._tell(number)

    def _at_once(self, waiting: list[int]) -> None:
        stop, running = threading.Event(), dict[int, Worker]()
        share = max(1, cores() // self.workers)
        with stopped_by_signals(stop), tempfile.TemporaryDirectory(prefix="understudy-study-") as folder:
            try:
                while (waiting or running) and not stop.is_set():
                    for number in [n for n, worker in running.items() if not worker.alive]:
                        worker = running.pop(number)
                        worker.close(_STUCK)
                        self._take(number, worker)
                    free = [n for n in waiting if not is_held(Path(self.tasks[n].config.output))]
                    for number in free[: self.workers - len(running)]:
                        waiting.remove(number)
                        if not self._known(number):
                            config = Path(folder) / f"{number}.yaml"
                            running[number] = Worker(self.tasks[number], share, config)
                    time.sleep(_PAUSE)
            finally:
                end(list(running.values()))
        if stop.is_set():
            raise InterruptedRunError

    def _take(self, number: int, worker: Worker) -> None:
        """Notes what a worker that has ended leaves behind."""
        if not self._known(number):
            raise ValueError(f"{self.tasks[number].label}: {worker.problem}")
        self._tell(number)

    def _tell(self, number: int) -> None:
        result = self.results[number]
        last = result["last"].get(f"test/{task_named(result.get('task')).primary}")
        what = result["status"] if last is None else f"{last:.2f}%"
        self.say(f"{self.tasks[number].label}: {what} ({len(self.results)} of {len(self.tasks)} runs)")


class Worker:
    """One run in a process of its own, in a group of its own: Ctrl-C reaches it once, through its parent."""

    def __init__(self, task: Task, threads: int, config: Path) -> None:
        fresh = not (Path(task.config.output) / "config.yaml").exists()  # else it goes on with what it had
        chosen = {"train.threads": threads} if fresh and task.config.train.threads is None else {}
        write_text(config, task.config.replaced(**chosen).yaml())
        self.errors = config.with_suffix(".txt")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "understudy.worker", task.verb, str(config), "--quiet", *task.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    @property
    def problem(self) -> str:
        """The last line that the process said before it failed."""
        lines = self.errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"its process ended with status {self.process.returncode}"
        return last.removeprefix("understudy: ")

    def close(self, patience: float) -> None:
        """Waits for the end, and forces it after ``patience`` seconds."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def is_held(folder: Path) -> bool:
    """Returns whether another process runs into this folder."""
    if not folder.exists():
        return False
    try:
        with locked(folder, patience=0):
            return False
    except ValueError:
        return True


def end(workers: list[Worker]) -> None:
    """Asks the workers for a checkpoint and an end."""
    for worker in workers:
        if worker.alive:
            worker.process.send_signal(signal.SIGTERM)
    for worker in workers:
        worker.close(_STUCK)
