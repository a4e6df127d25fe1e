"""The whole loop against one that was written for this test: every step, the average, what is measured and chosen."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import understudy as us
from understudy import job as jobs
from understudy.build import build, eval_batches, train_loader
from understudy.data.counter import step_seed
from understudy.engine import loop
from understudy.files import read_json_lines

CLIP, DECAY, TEMPERATURE = 0.5, 0.6, 3.0
RATES = [0.2, 0.2, 0.2 * 20]  # the last epoch spoils what was learnt, so that the best one is another

TIPPED = {"train/acc1": 200 / 149, "val/acc1": 100 / 16, "test/acc1": 200 / 500}
"""Percent of an image or two, of those there are: the library folds the teacher, and rounding may tip them."""


class Net(nn.Module):
    """Convolution, batch norm, dropout: what a loop must get right of a network."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(128, num_classes)

    def forward(self, images):
        return self.head(self.drop(self.features(images).flatten(1)))


@pytest.fixture
def config(digits_config, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "write_run_report", lambda folder: folder)
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        torch.save(Net(10, 1).state_dict(), tmp_path / f"{name}.pt")
        digits_config[name] = {"model": f"{__name__}:Net", "weights": str(tmp_path / f"{name}.pt")}
    digits_config |= {"gradients": {"align": "none"}, "data": {"name": "digits", "limit": 165, "val": 0.1}}
    digits_config["losses"] = [
        {"name": "ce", "weight": 0.7},
        {"name": "kd", "weight": 0.9, "temperature": TEMPERATURE},
    ]
    digits_config["train"] |= {
        "ema": DECAY,
        "clip_norm": CLIP,
        "accumulate": 2,
        "schedule": {"name": "multistep", "milestones": [2], "gamma": 20.0},
        "divergence": {"explosion": None, "collapse_epochs": None},
        "optimizer": {"name": "sgd", "lr": 0.2, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    }
    return us.load_config(digits_config)


def accuracy(net, batches):
    net.eval()
    with torch.no_grad():
        right = [(net(batch.images).argmax(dim=1) == batch.target).double() for batch in batches]
    return 100 * float(torch.cat(right).mean())


def plain_loop(config):
    """Returns a line an epoch, the average's test accuracy after each, and its state at the end."""
    device = torch.device("cpu")
    built = build(config, device)
    data, batches = built.data, train_loader(built, device)
    student, teacher = Net(10, 1), Net(10, 1).eval()
    student.load_state_dict(torch.load(config.student.weights))
    teacher.load_state_dict(torch.load(config.teacher.weights))
    average = copy.deepcopy(student)
    optimizer = torch.optim.SGD(student.parameters(), 0.2, 0.8, weight_decay=0.01, nesterov=True)
    lines, tested, done = [], [], 0
    for epoch, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        student.train()
        sums, right, seen = [0.0, 0.0], 0, 0
        for batch in batches.epoch(epoch):
            torch.manual_seed(step_seed(config.seed, done))
            size = len(batch.target)
            optimizer.zero_grad()
            for rows in (slice(0, size // 2), slice(size // 2, size)):
                images, target = batch.images[rows], batch.target[rows]
                with torch.no_grad():
                    soft = F.softmax(teacher(images) / TEMPERATURE, dim=1)
                logits = student(images)
                ce = 0.7 * F.cross_entropy(logits, target)
                log = F.log_softmax(logits / TEMPERATURE, dim=1)
                kd = 0.9 * TEMPERATURE**2 * F.kl_div(log, soft, reduction="batchmean")
                ((ce + kd) * len(target) / size).backward()
                for place, loss in enumerate((ce, kd)):
                    sums[place] += float(loss.detach()) * len(target)
                right += int((logits.argmax(dim=1) == target).sum())
            nn.utils.clip_grad_norm_(student.parameters(), CLIP)
            optimizer.step()
            with torch.no_grad():
                for name, kept in average.state_dict().items():
                    now = student.state_dict()[name]
                    kept.copy_(DECAY * kept + (1 - DECAY) * now if kept.is_floating_point() else now)
            done, seen = done + 1, seen + size
        ce, kd = (value / seen for value in sums)
        held_out = accuracy(average, eval_batches(data.val, built, device))
        lines.append({"lr": rate, "train/loss": ce + kd, "train/ce": ce, "train/kd": kd})
        lines[-1] |= {"train/acc1": 100 * right / seen, "val/acc1": held_out}
        tested.append(accuracy(average, eval_batches(data.test, built, device)))
    return lines, tested, average.state_dict()


def stopped_at(place, config, monkeypatch):
    step = loop._forward_backward

    def stops(job, *rest):
        step(job, *rest)
        if (job.epoch, job.step) == place:
            job.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", stops)
        with pytest.raises(us.InterruptedRunError):
            us.distill(config, quiet=True)


@pytest.mark.parametrize("place", [None, (0, 3), (2, 1)], ids=["at once", "first epoch", "last epoch"])
def test_a_run_is_the_plain_loop_of_its_config(config, monkeypatch, place):
    lines, tested, state = plain_loop(config)
    best = max(range(3), key=lambda epoch: lines[epoch]["val/acc1"])  # the first of equals
    assert lines[best]["val/acc1"] > lines[2]["val/acc1"]
    assert tested[best] != tested[2]
    if place is not None:
        stopped_at(place, config, monkeypatch)
    run = us.distill(config, quiet=True)
    weights = load_file(run.path / "student.safetensors")
    assert weights.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
        assert torch.equal(run.student.state_dict()[name], weights[name])  # whatever was measured in between
    found = read_json_lines(run.path / "metrics.jsonl")
    for ours, theirs in zip(found, lines, strict=True):
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, rel=1e-4, abs=TIPPED.get(key, 0)), key
    result = run.metrics
    assert result["best"]["epoch"] == best + 1
    assert result["best"]["test/acc1"] == pytest.approx(tested[best], abs=TIPPED["test/acc1"])
    assert result["last"]["test/acc1"] == found[-1]["test/acc1"]
    assert result["last"]["test/acc1"] == pytest.approx(tested[2], abs=TIPPED["test/acc1"])
