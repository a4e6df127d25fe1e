"""What a step may cost besides arithmetic, counted: host reads, graph breaks, recompilations, teacher's images."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import understudy as us
from understudy.build import build, build_job, process
from understudy.config import load_config
from understudy.engine import loop
from understudy.engine.console import Console
from understudy.engine.distributed import Ranks
from understudy.engine.ema import MovingAverage
from understudy.engine.loop import steps
from understudy.guidance import attach_answers, settle_precision


class HostReads(TorchDispatchMode):
    """Counts what would wait for a GPU: on a CPU every read of a number is `_local_scalar_dense`."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def opened(config, tmp_path):
    config = load_config(config)
    with process(config) as device:
        built = build(config, device)
        job = build_job(built, tmp_path / "run", Console(quiet=True), device, threading.Event())
        built = settle_precision(built, job.stream.loader.image_set, Ranks())
        attach_answers(built, job.stream, tmp_path / "run", Ranks())
        if job.train.ema is not None:
            job.average = MovingAverage(
                job.distiller.live_state, job.train.ema, job.distiller.deployed_names()
            )
    return job


@pytest.mark.parametrize("policy", ["stop", "skip", "rewind"])
@pytest.mark.parametrize("align", ["none", "released", "backbone", "feature"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_step_reads_the_host(digits_config, tmp_path, monkeypatch, policy, align, optimizer):
    config = {
        **digits_config,
        "losses": [
            {"name": "ce"},
            {"name": "dhkd"},
            {"name": "dkd", "weight": {"value": 1.0, "warmup_epochs": 1}},
        ],
        "gradients": {"align": align},
        "train": digits_config["train"]
        | {
            "divergence": {"policy": policy},
            "clip_norm": 5.0,
            "optimizer": {"name": optimizer, "lr": 0.01},
        },
    }
    monkeypatch.setattr(loop, "step_seed", lambda seed, step: step)  # on the host, whatever the device
    job = opened(config, tmp_path)
    going = steps(job)
    next(going)  # the first step makes the optimiser's state
    counts = []
    for _ in range(job.steps - 2):  # the last one of an epoch reads the sums
        job.stream.at(job.epoch, job.step)  # what the teacher's blocks plan is planned on the host
        with HostReads() as reads:
            next(going)
        counts.append(reads.count)
    job.stream.close()
    assert counts == [0] * (job.steps - 2)


LOSSES = {
    "ce": [{"name": "ce"}],
    "kd": [{"name": "ce"}, {"name": "kd"}],
    "dkd": [{"name": "ce"}, {"name": "dkd"}],
    "dhkd": [{"name": "ce"}, {"name": "dhkd"}],
    "dhkd mlp": [{"name": "ce"}, {"name": "dhkd", "head": "mlp"}],
    "dino": [{"name": "ce"}, {"name": "dino"}],
    "fitnet": [{"name": "ce"}, {"name": "fitnet"}],
}


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_a_compiled_student_has_one_graph_and_is_never_compiled_again(losses):
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    student, teacher = us.create_model("resnet8", 10), us.create_model("resnet14", 10)
    means = torch.randn(10, 64)
    distiller = us.Distiller(student, teacher, losses, class_means=means)
    plain = us.Distiller(us.create_model("resnet8", 10), teacher, losses, class_means=means)
    plain.load_state_dict(distiller.state_dict())
    distiller.compile_student(backend=backend)
    images, target = torch.randn(8, 3, 32, 32), torch.arange(8)
    for size in (8, 8, 8, 5, 8, 5):  # the last batch of an epoch is smaller
        batch = images[:size], target[:size]
        torch.manual_seed(size)  # dropout
        out = distiller(*batch, epoch=1)
        torch.manual_seed(size)
        expected = plain(*batch, epoch=1)
        distiller.backward(out)
        plain.backward(expected)
        torch.testing.assert_close(out.loss, expected.loss)
    assert len(graphs) == 2  # one for each size
    for a, b in zip(distiller.trainable_parameters(), plain.trainable_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    torch.compiler.reset()


def test_a_student_that_cannot_be_compiled_runs_as_it_is(recwarn):
    class Branches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Flatten()
            self.fc = torch.nn.Linear(3 * 32 * 32, 10)

        def forward(self, images):
            if images.mean() > 0:  # one graph cannot do both
                images = -images
            return self.fc(self.body(images))

    distiller = us.Distiller(Branches(), None, [{"name": "ce"}])
    distiller.compile_student(backend="eager")
    images, target = torch.randn(8, 3, 32, 32), torch.arange(8)
    with pytest.warns(UserWarning, match="the student runs uncompiled"):
        out = distiller(images, target)
    assert torch.isfinite(out.loss)
    distiller.backward(distiller(images, target))  # says it once
    torch.compiler.reset()
