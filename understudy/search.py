"""A search under way: what to try next, by Optuna, and having it run, each trial at most once."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.config import Config, RangeConfig, TuneConfig
from understudy.data.counter import step_seed
from understudy.data.undecoded import cores
from understudy.engine.console import Console
from understudy.engine.loop import InterruptedRunError, stopped_by_signals
from understudy.files import read_json
from understudy.pool import Task, Worker, end, is_held
from understudy.space import Contender, Setting
from understudy.trial import (
    COHORT,
    STATUS,
    begun_trial,
    conclude_trial,
    kept_after,
    open_study,
    require_optuna,
    run_trial,
    score_of,
)

if TYPE_CHECKING:
    import optuna

METHOD = "method"
"""What Optuna calls the choice between methods."""
_PAUSE = 0.1  # seconds between two looks at the workers
_PATIENCE = 60.0  # seconds after which an interrupted worker is ended by force


@dataclass
class Search:
    """Asks Optuna what to try, has it run, and tells what came of it."""

    folder: Path
    plan: TuneConfig
    contenders: Sequence[Contender]
    workers: int
    console: Console
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Trial's number -> content of its ``result.json``."""
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        self.study = open_study(self.folder, self.plan, self.contenders[0].config.train.epochs)
        together = self.plan.pruner == "halving" and len(self.contenders) > 1
        self.study.set_user_attr(COHORT, len(self.contenders) if together else 0)
        for one in self.contenders:
            self.study.enqueue_trial(
                self._named(one, one.written()) | self._method(one.name), skip_if_exists=True
            )

    def __call__(self) -> None:
        """Runs until there are as many trials as planned.

        Raises:
            InterruptedRunError: asked to stop.
        """
        self._take_finished()
        begun = len(self.results)
        if begun:
            self.console.say(f"{begun} of {self.plan.trials} trials are there already")
        if self.workers == 1:
            self._one_by_one()
        else:
            self._at_once()

    def values(self, number: int) -> tuple[Contender, dict[str, Any]]:
        """Returns a trial's method, and its settings by their keys."""
        params = self.study.get_trials(deepcopy=False)[number].params
        one = self._contender(params.get(METHOD))
        names = {self._name(one, s): s.key for s in one.settings}
        return one, {names[name]: value for name, value in params.items() if name in names}

    def config(self, number: int) -> Config:
        """Returns the config of a trial."""
        one, values = self.values(number)
        return one.at(values).replaced(output=str(self._place(number)))

    def _one_by_one(self) -> None:
        stop = threading.Event()
        with stopped_by_signals(stop):
            while not stop.is_set() and (number := self._next(set(), stop)) is not None:
                with self._given_up(number):
                    run_trial(self.config(number), number)
                self._take(number)
        if stop.is_set():
            raise InterruptedRunError

    def _at_once(self) -> None:
        stop, running = threading.Event(), dict[int, Worker]()
        share = max(1, cores() // self.workers)
        with stopped_by_signals(stop), tempfile.TemporaryDirectory(prefix="understudy-tune-") as configs:
            try:
                while not stop.is_set():
                    for number in [n for n, worker in running.items() if not worker.alive]:
                        self._collect(number, running.pop(number))
                    while (
                        len(running) < self.workers and (number := self._next(set(running), stop)) is not None
                    ):
                        with self._given_up(number):
                            config = self.config(number)
                        task = Task(f"trial {number + 1}", "tune", config, ("--trial", str(number)))
                        running[number] = Worker(task, share, Path(configs) / f"{number}.yaml")
                    if not running:
                        break
                    time.sleep(_PAUSE)
            finally:
                end(list(running.values()))
        if stop.is_set():
            raise InterruptedRunError

    def _collect(self, number: int, worker: Worker) -> None:
        worker.close(_PATIENCE)
        if not (self._place(number) / "result.json").exists():
            ended = worker.process.returncode in (-9, -15, 130)  # by somebody else, so it can go on
            with self._given_up(number, not ended):
                raise ValueError(f"trial {number + 1}: {worker.problem}")
        self._take(number)

    @contextmanager
    def _given_up(self, number: int, failed: bool = True) -> Iterator[None]:
        """On an error, has the next search go on without a trial whose settings were proposed and cannot be run.

        One that has begun to train can: it goes on from its checkpoint.
        """
        try:
            yield
        except InterruptedRunError:
            raise
        except Exception:
            begun = (self._place(number) / "checkpoints" / "last.pt").exists()
            if failed and not begun and number >= len(self.contenders):
                self.study.tell(number, state=require_optuna().trial.TrialState.FAIL, skip_if_finished=True)
            raise

    def _next(self, running: set[int], stop: threading.Event) -> int | None:
        """Returns a trial to run: one that was begun and nobody runs, else a new one.

        ``None`` if there is none left, a new one must wait until those that run have come to the next decision, or
        the search is to stop.
        """
        self._decide(running)
        states = require_optuna().trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        begun = [trial for trial in trials if trial.state == states.RUNNING and trial.number not in running]
        for trial in begun:
            if not self._is_paused(trial.number):
                while is_held(self._place(trial.number)):  # the worker of a killed search is about to end
                    if stop.is_set():
                        return None
                    time.sleep(_PAUSE)
                self._seed(trial.number)
                self._suggest(begun_trial(self.study, trial.number))  # if the search was killed as it asked
                return trial.number
        number = sum(trial.state != states.WAITING for trial in trials)
        if number >= self.plan.trials or (begun and number >= len(self.contenders)):
            return None
        self._seed(number)
        trial = self.study.ask()
        self._suggest(trial)
        return trial.number

    def _seed(self, number: int) -> None:
        """Has Optuna propose a trial as a function of the config's seed and its number."""
        seed = step_seed(self.contenders[0].config.seed, number) % 2**32
        self.study.sampler = require_optuna().samplers.TPESampler(seed=seed)

    def _decide(self, running: set[int]) -> None:
        """Lets the better half of the methods as written go on, once all that are left have come to the same epoch."""
        cohort = self.study.get_trials(deepcopy=False)[: self.study.user_attrs[COHORT]]
        left = [trial for trial in cohort if not trial.state.is_finished()]
        paused = [trial for trial in left if trial.number not in running and self._is_paused(trial.number)]
        epochs = {trial.number: trial.last_step or 0 for trial in paused}
        if paused and len(paused) == len(left):
            decision = kept_after(max(epochs.values()))
            if decision not in self.study.user_attrs:
                ranking = sorted(
                    paused, key=lambda trial: -trial.intermediate_values.get(epochs[trial.number], 0.0)
                )
                self.study.set_user_attr(decision, [trial.number for trial in ranking[: -(-len(left) // 2)]])
        decided = self.study.user_attrs
        for number, epoch in epochs.items():  # of this decision, or of one that was killed halfway through
            if (kept := decided.get(kept_after(epoch))) is None:
                continue
            if number in kept:
                (self._place(number) / "result.json").unlink()
            else:
                result = read_json(self._place(number) / "result.json")
                conclude_trial(self._place(number), result | {STATUS: "stopped"})
                self._take(number)

    def _is_paused(self, number: int) -> bool:
        file = self._place(number) / "result.json"
        return file.exists() and read_json(file)[STATUS] == "paused"

    def _suggest(self, trial: optuna.Trial) -> None:
        name = None
        if len(self.contenders) > 1:
            name = trial.suggest_categorical(METHOD, [one.name for one in self.contenders])
        one = self._contender(name)
        for setting in one.settings:
            _ask(trial, self._name(one, setting), setting)

    def _take_finished(self) -> None:
        """Notes every trial that has ended, also one of which nobody told Optuna any more."""
        for trial in self.study.get_trials(deepcopy=False):
            if (self._place(trial.number) / "result.json").exists() and not self._is_paused(trial.number):
                self._note(trial.number)

    def _take(self, number: int) -> None:
        """Takes what a trial leaves behind, unless it is paused, and says so."""
        if self._is_paused(number):
            return
        result = self._note(number)
        one, values = self.values(number)
        epoch, score = result["last"]["epoch"], score_of(result)
        what = {
            "finished": f"{score:.2f}%" if score is not None else "",
            "stopped": f"stopped after epoch {epoch}" + (f" at {score:.2f}%" if score is not None else ""),
            "diverged": "diverged",
        }[result[STATUS]]
        self.console.say(f"trial {number + 1} of {self.plan.trials}: {one.name}, {in_words(values)}: {what}")

    def _note(self, number: int) -> dict[str, Any]:
        """Takes a trial's result, and tells Optuna unless it knows."""
        states = require_optuna().trial.TrialState
        result = self.results[number] = read_json(self._place(number) / "result.json")
        finished = result[STATUS] == "finished"
        self.study.tell(
            number,
            score_of(result) if finished else None,
            state=states.COMPLETE if finished else states.PRUNED,
            skip_if_finished=True,
        )
        return result

    def _place(self, number: int) -> Path:
        return self.folder / "trials" / f"{number + 1:04d}"

    def _contender(self, name: str | None) -> Contender:
        return next(one for one in self.contenders if name in (None, one.name))

    def _method(self, name: str) -> dict[str, str]:
        return {METHOD: name} if len(self.contenders) > 1 else {}

    def _name(self, one: Contender, setting: Setting) -> str:
        """Returns what Optuna calls a setting: a method's own number is no other method's."""
        return setting.key if setting.shared or len(self.contenders) == 1 else f"{one.name}/{setting.key}"

    def _named(self, one: Contender, values: dict[str, Any]) -> dict[str, Any]:
        return {self._name(one, s): values[s.key] for s in one.settings if s.key in values}


def _ask(trial: optuna.Trial, name: str, setting: Setting) -> None:
    where = setting.where
    if not isinstance(where, RangeConfig):
        trial.suggest_categorical(name, where)
    elif isinstance(where.low, int) and isinstance(where.high, int) and isinstance(where.step, int):
        trial.suggest_int(name, where.low, where.high, step=where.step)
    else:
        trial.suggest_float(name, where.low, where.high, log=where.log, step=where.step)


def in_words(values: dict[str, Any]) -> str:
    """Returns settings as one line.

    Example:
        >>> from understudy.search import in_words
        >>> in_words({"kd.temperature": 4.0, "gradients.align": "none"})
        'kd.temperature 4, gradients.align none'
    """
    shown = {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in values.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items()) or "nothing to change"
