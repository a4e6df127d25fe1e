"""Trackers are told every epoch's line, go on where a run was stopped, and are refused where their package is not."""

import json
import sys
import types

import pytest

import understudy as us
from understudy.engine import trackers
from understudy.engine.trackers import open_trackers

LINE = {"epoch": 2, "train/loss": 0.5, "val/acc1": 90.0, "nothing": None}
CONFIG = {"seed": 0, "train": {"epochs": 3}}


class FakeWandB(types.ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def init(self, **options):
        self.calls.append(("init", options))
        return types.SimpleNamespace(
            log=lambda numbers, step: self.calls.append(("log", numbers, step)),
            finish=lambda: self.calls.append(("finish",)),
        )


class FakeMLflow(types.ModuleType):
    def __init__(self):
        super().__init__("mlflow")
        self.calls = []
        self.active = None

    def active_run(self):
        return self.active

    def start_run(self, run_id=None, run_name=None, nested=False):
        self.calls.append(("start", run_id, run_name, nested))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "made-by-mlflow"))

    def log_params(self, params):
        self.calls.append(("params", params))

    def log_metrics(self, numbers, step):
        self.calls.append(("log", numbers, step))

    def end_run(self):
        self.calls.append(("end",))


def test_wandb_is_given_the_config_and_goes_on_under_one_identity(tmp_path, monkeypatch):
    wandb = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for _ in range(2):
        (tracker,) = open_trackers(["wandb"], tmp_path, CONFIG, 0)
        tracker.log(LINE)
        tracker.close()
    starts = [call[1] for call in wandb.calls if call[0] == "init"]
    assert starts[0]["id"] == starts[1]["id"]
    assert starts[0]["resume"] == "allow"
    assert starts[0]["config"] == CONFIG
    assert starts[0]["name"] == tmp_path.name
    assert ("log", {"train/loss": 0.5, "val/acc1": 90.0}, 2) in wandb.calls
    assert wandb.calls[-1] == ("finish",)


def test_mlflow_is_given_flat_parameters_once_and_goes_on_in_its_run(tmp_path, monkeypatch):
    mlflow = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for _ in range(2):
        (tracker,) = open_trackers(["mlflow"], tmp_path, CONFIG, 0)
        tracker.log(LINE)
        tracker.close()
    assert [call for call in mlflow.calls if call[0] == "params"] == [
        ("params", {"seed": "0", "train.epochs": "3"})
    ]
    assert [call[1] for call in mlflow.calls if call[0] == "start"] == [
        None,
        "made-by-mlflow",
        "made-by-mlflow",
    ]
    assert [call for call in mlflow.calls if call[0] == "log"] == [
        ("log", {"train/loss": 0.5, "val/acc1": 90.0}, 2)
    ] * 2


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path, monkeypatch):
    mlflow, said = FakeMLflow(), []
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    (tracker,) = open_trackers(["mlflow"], tmp_path, CONFIG, 0, said.append)

    def away(numbers, step):
        raise ConnectionError("no route to host\nand much more")

    mlflow.log_metrics = away
    for _ in range(2):
        tracker.log(LINE)
    del mlflow.log_metrics
    tracker.log(LINE)
    tracker.close()
    assert said == ["mlflow failed, the run goes on: ConnectionError: no route to host"]
    assert [call[0] for call in mlflow.calls].count("log") == 1


def test_mlflow_nests_in_a_run_of_the_caller(tmp_path, monkeypatch):
    mlflow = FakeMLflow()
    mlflow.active = object()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    open_trackers(["mlflow"], tmp_path, CONFIG, 0)
    assert all(call[3] for call in mlflow.calls if call[0] == "start")


def test_a_package_that_is_not_there_is_refused_before_anything_is_written(
    digits_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"installed, got 'wandb'. Install it with: pip install wandb"):
        us.distill(digits_config, quiet=True, **{"train.trackers": ["wandb"]})
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused(digits_config):
    with pytest.raises(ValueError, match=r"trackers"):
        us.distill(digits_config, quiet=True, **{"train.trackers": ["excel"]})


def test_a_run_tells_every_epoch_and_the_result_and_closes(digits_config, monkeypatch):
    wandb = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: name)
    run = us.distill(digits_config, quiet=True, **{"train.trackers": ["wandb"]})
    logged = [call for call in wandb.calls if call[0] == "log"]
    assert [call[2] for call in logged] == [1, 2, 3, 3]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert logged[1][1]["train/loss"] == lines[1]["train/loss"]
    assert logged[-1][1]["test/acc1"] == run.metrics["last"]["test/acc1"]
    assert wandb.calls[-1] == ("finish",)


def test_tensorboard_files_hold_the_numbers(digits_config):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = us.distill(digits_config, quiet=True, **{"train.trackers": ["tensorboard"]})
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    found = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert [step for step, _ in found] == [1, 2, 3]
    assert [value for _, value in found] == pytest.approx([line["train/loss"] for line in lines], rel=1e-6)
    assert events.Scalars("test/acc1")[-1].value == pytest.approx(run.metrics["last"]["test/acc1"])
