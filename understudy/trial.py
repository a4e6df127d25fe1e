"""One trial of a search: trained like any run, judged on held-out images after every epoch, never on test images."""

from __future__ import annotations

import importlib
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.build import process
from understudy.config import Config, TrainConfig, TuneConfig, load_config
from understudy.engine.divergence import DivergedError
from understudy.engine.loop import InterruptedRunError, fit, stopped_by_signals
from understudy.files import read_json, write_json
from understudy.guidance import kept
from understudy.job import DATABASE, note, open_job, stored_config, take_up
from understudy.result import summary, write_weights
from understudy.study import arm_config
from understudy.tasks import held_out_score

if TYPE_CHECKING:
    import optuna

REDUCTION = 3
"""Of as many trials one goes on at each step of successive halving."""
STATUS = "status"
COHORT = "cohort"
"""Attribute of the study: how many trials, the first ones, are methods as written, which are judged together."""


def require_optuna() -> Any:
    """Returns the module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        module = importlib.import_module("optuna")
    except ImportError:
        raise ValueError(
            "tune must have optuna installed, got none. Install the extra: pip install '.[tune]'"
        ) from None
    module.logging.set_verbosity(module.logging.ERROR)
    return module


def open_study(folder: Path, plan: TuneConfig, epochs: int) -> optuna.Study:
    """Returns the search that is kept in ``folder``, new or as it stands.

    Args:
        folder: of the search.
        plan: says who is stopped early.
        epochs: of a trial.
    """
    module = require_optuna()
    first = first_rung(plan, epochs)
    pruners: dict[str, Callable[[], Any]] = {
        "halving": lambda: module.pruners.SuccessiveHalvingPruner(
            min_resource=first, reduction_factor=REDUCTION
        ),
        "median": lambda: module.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=first),
        "none": module.pruners.NopPruner,
    }
    storage = module.storages.RDBStorage(
        f"sqlite:///{(folder / DATABASE).resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    return module.create_study(
        storage=storage,
        study_name="tune",
        direction="maximize",
        load_if_exists=True,
        pruner=pruners[plan.pruner](),
    )


def begun_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Returns a trial that was begun, by this process or another, ready to be asked and told."""
    frozen = study.get_trials(deepcopy=False)[number]
    return require_optuna().Trial(study, frozen._trial_id)


def rungs(plan: TuneConfig, train: TrainConfig) -> list[int]:
    """Returns the measured epochs after which successive halving decides; none after half of all epochs.

    Example:
        >>> from understudy.config import TrainConfig, TuneConfig
        >>> from understudy.trial import rungs
        >>> rungs(TuneConfig(), TrainConfig(epochs=240)), rungs(TuneConfig(), TrainConfig(epochs=60, eval_every=5))
        ([26, 78], [10, 20])
    """
    found, rung = [], first_rung(plan, train.epochs)
    while 2 * (measured := -(-rung // train.eval_every) * train.eval_every) <= train.epochs:
        found.append(measured)
        rung *= REDUCTION
    return found


def first_rung(plan: TuneConfig, epochs: int) -> int:
    """Returns the epoch before which nobody is stopped."""
    return plan.min_epochs or max(1, epochs // REDUCTION**2)


def kept_after(epoch: int) -> str:
    """Returns under which name the search keeps who went on after an epoch at which all methods waited."""
    return f"kept after epoch {epoch}"


class StoppedEarlyError(Exception):
    """The trial is not worth its remaining epochs."""


def score_of(result: Mapping[str, Any]) -> float | None:
    """Returns the held-out score of a trial's last epoch in percent, ``None`` before it was measured.

    Args:
        result: content of ``result.json``.
    """
    name = held_out_score(result["last"])
    return None if name is None else float(result["last"][name])


class Reporter:
    """Tells Optuna the score of every epoch that is measured, and ends a trial that falls behind.

    Nobody is stopped after half of the epochs: by then the score at the end is worth more than the time saved.

    Args:
        trial: Optuna's.
        epochs: of a trial.
        stop: the run's; set to pause it.
        pauses: epochs after which the trial waits for others of its cohort, instead of being stopped.
    """

    def __init__(
        self, trial: optuna.Trial, epochs: int, stop: threading.Event, pauses: Sequence[int]
    ) -> None:
        self.paused = False
        self._trial, self._epochs, self._stop = trial, epochs, stop
        known = trial.study.get_trials(deepcopy=False)[trial.number]
        self._known = set(known.intermediate_values)  # a resumed run comes by them again
        self._pauses = pauses

    def begin(self, epoch: int) -> None:
        """Pauses a trial that goes on from an epoch at which it was to wait, if nobody has decided there yet.

        It ended there before it could say so: by a signal in the last step, or killed.
        """
        if epoch in self._pauses and kept_after(epoch) not in self._trial.study.user_attrs:
            self.paused = True
            self._stop.set()

    def log(self, line: Mapping[str, Any]) -> None:
        """Reports one line of ``metrics.jsonl``.

        Raises:
            StoppedEarlyError: others were better by then.
        """
        score = held_out_score(line)
        if score is None:
            return
        epoch = int(line["epoch"])
        if epoch not in self._known:
            self._trial.report(float(line[score]), epoch)
        behind = 2 * epoch <= self._epochs and self._trial.should_prune()  # which also notes the rung
        if epoch in self._pauses and not self._stop.is_set():
            self.paused = True
            self._stop.set()
        elif behind and not self._pauses:
            raise StoppedEarlyError

    def close(self) -> None:
        """Leaves the study open: others use it, too."""


def run_trial(config: Config, number: int) -> dict[str, Any]:
    """Trains one trial, or goes on with it.

    Args:
        config: of the trial; its ``output`` is ``SEARCH/trials/NUMBER``.
        number: of the trial in Optuna's study, from 0.

    Returns:
        the content of its ``result.json``: ``status`` finished, stopped, diverged, or paused: it has come to an epoch
        where it waits for the rest of its cohort.

    Raises:
        InterruptedRunError: asked to stop; there is a checkpoint.
    """
    folder, stop = Path(config.output).parents[1], threading.Event()
    plan = load_config(folder / "config.yaml").tune or TuneConfig()
    study = open_study(folder, plan, config.train.epochs)
    pauses = rungs(plan, config.train) if number < study.user_attrs.get(COHORT, 0) else []
    reporter = Reporter(begun_trial(study, number), config.train.epochs, stop, pauses)
    return train_unseen("distill", config, reporter, stop, runs=asking_alike(config, plan))


def asking_alike(config: Config, plan: TuneConfig) -> int:
    """Returns how many trials of a search ask the teacher as this one does, if its methods get equally many.

    Args:
        config: of the trial.
        plan: of the search.
    """
    methods = [kept(arm_config(entry, config).losses) for entry in plan.methods or []]
    alike = methods.count(kept(config.losses))
    return max(1, plan.trials * alike // len(methods)) if methods else plan.trials


def train_unseen(
    verb: str,
    config: Config,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    *,
    runs: int = 1,
) -> dict[str, Any]:
    """Trains without ever measuring the test images.

    Args:
        verb: ``train`` or ``distill``, for the records.
        config: of the run; its output folder keeps config, metrics and ``result.json``, and in the end no checkpoints.
        reporter: told every epoch; without one the deployable weights are kept.
        stop: set to have a checkpoint and an end.
        runs: how many runs with the same views share the teachers' tables.

    Returns:
        the content of ``result.json``, of an earlier process if it had come to the end.

    Raises:
        InterruptedRunError: asked to stop; there is a checkpoint.
        DivergedError: and there is no reporter.
    """
    folder, stop = Path(config.output), stop or threading.Event()
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    with stopped_by_signals(stop), ExitStack() as held:
        stored = stored_config(folder, config)
        device = held.enter_context(process(stored or config))
        job, built = open_job(held, config, stored, device, stop, quiet=True, runs=runs)
        take_up(verb, job, built)
        if reporter is not None:
            job.trackers.append(reporter)
            reporter.begin(job.epoch)
        outcome: dict[str, Any] = {STATUS: "finished"}
        try:
            fit(job)
        except InterruptedRunError as error:
            if reporter is None or not reporter.paused:
                note(verb, job, built, error)
                raise
            outcome[STATUS] = "paused"
        except StoppedEarlyError:
            outcome[STATUS] = "stopped"
        except DivergedError as error:
            if reporter is None:
                raise
            outcome = {STATUS: "diverged", "message": str(error)}
        if reporter is None:
            with job.measured():
                write_weights(folder / "student.safetensors", job.distiller.deployable().eval(), built)
        result = summary(verb, job, built) | outcome
        conclude_trial(folder, result)
        return result


def conclude_trial(folder: Path, result: dict[str, Any]) -> None:
    """Writes what came of a trial: settings and a score; weights are of no use any more, unless it is paused."""
    write_json(folder / "result.json", result)
    if result[STATUS] != "paused":
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
