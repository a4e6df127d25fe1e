"""Writers that are told every epoch's line besides `metrics.jsonl`: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib
import importlib.util
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from understudy.files import write_json
from understudy.words import first_line

IDENTITIES = "trackers.json"
"""File of a run folder: under which identity a tracking server knows the run, so that it goes on there when resumed."""


class Tracker(Protocol):
    """Who is told the numbers of a run."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Takes one line of ``metrics.jsonl``; ``line["epoch"]`` is the step, from 1. What it raises ends the run."""
        ...

    def close(self) -> None:
        """Ends the record of this process."""
        ...


class TensorBoard:
    """Event files in ``RUN/tensorboard``; what a resumed run repeats is marked as superseded."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], epoch: int) -> None:
        writer = importlib.import_module("torch.utils.tensorboard.writer").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=epoch + 1)

    def log(self, line: Mapping[str, Any]) -> None:
        """Writes a scalar a number."""
        for key, value in _numbers(line).items():
            self._writer.add_scalar(key, value, int(line["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases; project, entity and mode come from its own environment variables."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], epoch: int) -> None:
        identity = _identity(folder, "wandb", lambda: uuid.uuid4().hex)
        self._run = importlib.import_module("wandb").init(
            id=identity, resume="allow", name=name, dir=str(folder), config=dict(config)
        )

    def log(self, line: Mapping[str, Any]) -> None:
        """Logs all numbers at one step."""
        self._run.log(_numbers(line), step=int(line["epoch"]))

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class MLflow:
    """A run of MLflow; the tracking server and the experiment come from its own environment variables."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], epoch: int) -> None:
        self._mlflow = mlflow = importlib.import_module("mlflow")
        inside = mlflow.active_run() is not None  # of the program that called us

        def create() -> str:
            run = mlflow.start_run(run_name=name, nested=inside)
            mlflow.log_params(_flat(config))
            mlflow.end_run()
            return run.info.run_id

        mlflow.start_run(run_id=_identity(folder, "mlflow", create), nested=inside)

    def log(self, line: Mapping[str, Any]) -> None:
        """Logs all numbers at one step."""
        self._mlflow.log_metrics(_numbers(line), step=int(line["epoch"]))

    def close(self) -> None:
        """Ends the run."""
        self._mlflow.end_run()


_TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def check_trackers(names: Sequence[str]) -> None:
    """Refuses a tracker whose package is not there.

    Raises:
        ValueError: with the name of the package.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"train.trackers must name packages that are installed, got {name!r}. "
                f"Install it with: pip install {name}, or leave it out"
            )


class Spared:
    """A tracker whose failures are said and do not end the run: a server may be away for a moment in epoch 200.

    Args:
        tracker: itself.
        name: of the tracker.
        say: tells the user that it failed, once.
    """

    def __init__(self, tracker: Tracker, name: str, say: Callable[[str], None]) -> None:
        self._tracker, self._name, self._say = tracker, name, say
        self._failed = False

    def log(self, line: Mapping[str, Any]) -> None:
        """Hands the line on."""
        self._tried(lambda: self._tracker.log(line))

    def close(self) -> None:
        """Closes the tracker."""
        self._tried(self._tracker.close)

    def _tried(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # each of them has errors of its own
            reason = first_line(error)
            if not self._failed:
                self._say(f"{self._name} failed, the run goes on: {type(error).__name__}: {reason}")
            self._failed = True


def open_trackers(
    names: Sequence[str],
    folder: Path,
    config: Mapping[str, Any],
    epoch: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[Tracker]:
    """Returns the writers of a run.

    Args:
        names: ``train.trackers``.
        folder: of the run; its name is the run's name.
        config: of the run, as plain values.
        epoch: epochs done, of a run that is resumed.
        say: tells the user what fails later.
    """
    return [
        Spared(_TRACKERS[name](folder, folder.resolve().name, config, epoch), name, say) for name in names
    ]


def _identity(folder: Path, name: str, create: Callable[[], str]) -> str:
    """Returns under which identity a run goes on, made once and kept in its folder."""
    file = folder / IDENTITIES
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if name not in known:
        known[name] = create()
        write_json(file, known)
    return known[name]


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in line.items() if key != "epoch" and value is not None}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns nested values under dotted keys, cut to what servers accept."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:500]
    return flat
