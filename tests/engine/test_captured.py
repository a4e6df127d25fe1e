"""Steps that are recorded and played leave what steps leave; a CPU plays by running the passes again in place."""

import pytest
import torch
from safetensors.torch import load_file

import understudy as us
from understudy import build as building
from understudy.engine.captured import KEPT, REHEARSALS, CapturedSteps
from understudy.interface import Batch


def tensors(left):
    """All tensors of what passes leave, in one order."""
    out, gradients, info = left
    losses = [out.loss, *out.terms.values(), out.logits, out.network_logits, out.feature, out.teacher_logits]
    return [t for t in (*losses, *gradients, *info.values()) if t is not None]


class Recorder:
    """As CUDA graphs do: recording has no effect, and playing writes into the tensors that were recorded."""

    def __init__(self, distiller):
        self.distiller, self.recorded, self.played = distiller, 0, 0

    def __call__(self, function):
        before = [(b, b.clone()) for b in self.distiller.buffers()]
        state = torch.get_rng_state()
        left = function()
        torch.set_rng_state(state)
        for buffer, value in before:
            buffer.copy_(value)
        places = [t.detach() for t in tensors(left)]
        self.recorded += 1

        def replay():
            self.played += 1
            for place, tensor in zip(places, tensors(function()), strict=True):
                place.copy_(tensor.detach())
            for parameter in self.distiller.trainable_parameters():
                parameter.grad = None

        return left, replay


@pytest.fixture
def recorders(monkeypatch):
    """Lets runs on this CPU record; the recorders, one a run."""
    made = []

    def captured(distiller):
        made.append(Recorder(distiller))
        return CapturedSteps(distiller, made[-1])

    monkeypatch.setattr(building, "_no_capture", lambda config, device: None)
    monkeypatch.setattr(building, "CapturedSteps", captured)
    return made


def config(digits_config, output, **train):
    return {
        **digits_config,
        "losses": [
            {"name": "ce"},
            {"name": "dhkd", "head": "mlp", "weight": {"value": 1.0, "warmup_epochs": 2}},
            {"name": "crd", "weight": 0.1, "negatives": 8},
        ],
        "gradients": {"align": "backbone"},
        "train": digits_config["train"] | {"epochs": 4, "diagnose_every": 5, **train},
        "output": str(output),
    }


@pytest.mark.parametrize("table", ["off", "memory"])
def test_a_recorded_run_is_the_run(digits_config, recorders, tmp_path, table):
    expected = us.distill(config(digits_config, tmp_path / "plain"), quiet=True, **{"teacher.table": table})
    ours = us.distill(
        config(digits_config, tmp_path / "recorded", capture=True), quiet=True, **{"teacher.table": table}
    )
    (recorder,) = recorders
    assert recorder.played >= 5
    weights = [load_file(run.path / "student.safetensors") for run in (ours, expected)]
    for name, tensor in weights[1].items():
        assert weights[0][name].equal(tensor), name
    lines = [(run.path / "metrics.jsonl").read_text().splitlines() for run in (ours, expected)]
    for line, other in zip(*lines, strict=True):
        assert line.partition('"images_per_second"')[0] == other.partition('"images_per_second"')[0]


def test_what_differs_is_another_recording_and_only_the_last_are_kept():
    student, teacher = us.create_model("cnn_tiny", 10), us.create_model("cnn_tiny", 10)
    distiller = us.Distiller(
        student, teacher, [{"name": "ce"}, {"name": "kd", "weight": {"warmup_epochs": 9}}]
    )
    recorder = Recorder(distiller)
    captured = CapturedSteps(distiller, recorder)

    def step(size, epoch):
        out = captured(Batch(torch.randn(size, 3, 32, 32), torch.arange(size)), epoch, (size,), {})
        for parameter in distiller.trainable_parameters():
            parameter.grad = None
        return out

    for _ in range(REHEARSALS):
        assert step(4, 0).loss.requires_grad
    assert recorder.recorded == 0
    assert not step(4, 0).loss.requires_grad
    step(4, 0)
    assert (recorder.recorded, recorder.played) == (1, 2)
    for _ in range(REHEARSALS + 1):
        step(3, 0)
    assert (recorder.recorded, recorder.played) == (2, 3)
    for epoch in range(1, KEPT + 1):  # each with another weight
        for _ in range(REHEARSALS + 1):
            step(4, epoch)
    assert recorder.recorded == 2 + KEPT
    step(4, 0)  # was dropped
    assert recorder.recorded == 3 + KEPT


def test_where_recording_fails_the_run_goes_on_and_says_so(digits_config, recorders, tmp_path, monkeypatch):
    def fails(distiller):
        def record(function):
            raise RuntimeError("operation not permitted when stream is capturing")

        return CapturedSteps(distiller, record)

    monkeypatch.setattr(building, "CapturedSteps", fails)
    losses = [{"name": "ce"}, {"name": "kd"}]
    expected = us.distill(config(digits_config, tmp_path / "plain") | {"losses": losses}, quiet=True)
    with pytest.warns(UserWarning, match="one by one, not as a graph: RuntimeError: operation not permitted"):
        ours = us.distill(
            config(digits_config, tmp_path / "failed", capture=True) | {"losses": losses}, quiet=True
        )
    assert ours.metrics["last"]["test/acc1"] == expected.metrics["last"]["test/acc1"]


def test_on_a_cpu_the_log_says_that_nothing_is_recorded(digits_config, tmp_path):
    us.distill(config(digits_config, tmp_path / "run", capture=True), quiet=True, **{"train.epochs": 1})
    assert (
        "steps run one by one, not as a graph: device is cpu" in (tmp_path / "run" / "train.log").read_text()
    )
