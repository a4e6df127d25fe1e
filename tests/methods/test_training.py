"""Every method trains: its own term falls, the teacher's answers matter, and a run on digits deploys and resumes."""

import copy
from dataclasses import fields

import pytest
import torch
from safetensors.torch import load_file

import understudy as us
from understudy.engine import loop
from understudy.files import read_json_lines
from understudy.methods import METHODS
from understudy.methods.presets import PRESETS
from understudy.methods.term import build_terms
from understudy.scaling import scaled

SETTINGS = {
    "crd": {"negatives": 8},  # of 16 images
    "dino": {"teacher_norm_scale": 5.0},  # so that the teacher's norm is the larger one, and is read
    "infonce": {"means": "classifier"},  # class means of a network nobody trained are all but parallel
    "sifn": {"previous": "snapshot", "step": 0.1},  # by default a constant pull: its value never falls
}
"""What differs from the defaults, to suit a tiny pair that was never trained."""
PAIRS = dict.fromkeys(("fsp", "kdsvd"), ("resnet8", "resnet14"))
"""Networks, where the usual ones cannot serve: fsp and kdsvd need equal channels."""
OF_IMAGES = [name for name, method in METHODS.items() if not method.needs_boxes]
WITHOUT = {name for name, method in METHODS.items() if not method.teacher_taps}
"""Methods that do not read a teacher in a step."""


def bench(name, size=16, count=16):
    torch.manual_seed(0)
    student, teacher = (us.create_model(m, 4) for m in PAIRS.get(name, ("cnn_tiny", "resnet8")))
    images, index = torch.randn(count, 3, size, size), torch.arange(count)
    with torch.no_grad():  # a teacher that is sure, of every class now and then, and right
        teacher.fc.weight.mul_(20)
        teacher.fc.bias.sub_(teacher.eval()(images).mean(dim=0))
        target = teacher(images).argmax(dim=1)
    assert len(target.unique()) == 4
    distiller = us.Distiller(
        student, teacher, [{"name": name, **SETTINGS.get(name, {})}], train_targets=target, example=images[:2]
    )
    distiller.prepare([(images, target)])
    return distiller, images, target, index


def steps(distiller, images, target, index, count, lr=0.03):
    optimizer = torch.optim.Adam(distiller.trainable_parameters(), lr=lr)
    values = []
    distiller.start_epoch()
    for _ in range(count):
        torch.manual_seed(0)  # the same dropout and negatives in every step
        out = distiller(images, target, index=index)
        optimizer.zero_grad()
        distiller.backward(out)
        optimizer.step()
        values.append(float(out.loss.detach()))
    return values


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_IMAGES)
def test_its_own_term_falls_by_a_fifth_on_one_batch(name):
    lr = 0.003 if name == "crd" else 0.03  # its temperature of .07 makes large steps jump
    values = steps(*bench(name), 50, lr)
    best = min(values[-5:])
    assert best < 0.8 * values[0], values[::10]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*OF_IMAGES} - WITHOUT))
def test_other_answers_of_the_teacher_give_another_student(name):
    """The teacher is asked about the images in another order: labels and student stay, only its answers move."""
    students = []
    for order in (torch.arange(16), torch.arange(16).roll(5)):
        distiller, images, target, index = bench(name)
        ask = distiller.guides.answers

        def shuffled(*question, ask=ask, order=order):
            return {
                name: {role: tensor[order] for role, tensor in shown.items()}
                for name, shown in ask(*question).items()
            }

        distiller.guides.answers = shuffled
        steps(distiller, images, target, index, 2)
        students.append([p.detach().clone() for p in distiller.student.parameters()])
    assert any(not torch.equal(a, b) for a, b in zip(*students, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_IMAGES)
def test_two_epochs_on_digits_run_deploy_and_resume(name, digits_config, tmp_path, monkeypatch):
    student, teacher = PAIRS.get(name, ("cnn_tiny", "resnet8"))
    config = digits_config | {
        "student": {"model": student},
        "teacher": None if name in ("ce", "dml") else {"model": teacher},
        "losses": [
            *([] if METHODS[name].label_loss else [{"name": "ce", "weight": 0.5}]),
            {"name": name, "weight": 0.1, **SETTINGS.get(name, {})},
        ],
        "gradients": {},
        "data": {"name": "digits", "limit": 70},
        "train": digits_config["train"] | {"epochs": 2, "ema": None},
    }
    verb = us.train if name == "ce" else us.distill
    whole = verb(config, quiet=True)
    assert whole.metrics["status"] == "finished"
    assert all(not m._forward_pre_hooks for m in whole.student.modules())
    folder, forward, count = str(tmp_path / "stopped"), loop._forward_backward, [0]

    def stops(job, *step_arguments):
        forward(job, *step_arguments)
        count[0] += 1
        if count[0] == 4:  # in the second epoch of three steps
            job.stop.set()

    monkeypatch.setattr(loop, "_forward_backward", stops)
    with pytest.raises(us.InterruptedRunError):
        verb(config, quiet=True, output=folder)
    monkeypatch.setattr(loop, "_forward_backward", forward)
    resumed = us.resume(folder, quiet=True)
    ours, theirs = (load_file(run.path / "student.safetensors") for run in (whole, resumed))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in PRESETS if name not in ("dkd+reviewkd", "fgfi")]
)  # of boxes
def test_every_preset_goes_through_its_schedule(name, digits_config):
    """In a fortieth of the epochs: ramps, terms that start late and terms that end, under the default optimiser."""
    student, teacher = PAIRS.get(name, ("cnn_tiny", "resnet8"))
    config = {key: value for key, value in digits_config.items() if key not in ("losses", "gradients")} | {
        "method": name,
        "student": {"model": student},
        "teacher": None if name in ("ce", "dml") else {"model": teacher},
        "data": {"name": "digits", "limit": 70},
        "train": digits_config["train"] | {"epochs": 240, "ema": None, "optimizer": {"lr": 0.001}},
    }
    short = scaled(us.load_config(config), 6 / 240)
    assert short.train.epochs == 6
    run = (us.train if name == "ce" else us.distill)(short, quiet=True)
    seen = {
        key.removeprefix("train/") for line in read_json_lines(run.path / "metrics.jsonl") for key in line
    }
    assert {term.label for term in build_terms(short.losses)} <= seen


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.uses_labels and not m.label_loss])
def test_a_method_that_reads_labels_says_so(name):
    assert METHODS[name].uses_labels
    assert all(f.name != "target" for f in fields(METHODS[name]))


def test_deep_copies_of_a_teacher_are_not_needed():
    """A distiller freezes its teacher in place; the student may be the same architecture, not the same object."""
    net = us.create_model("cnn_tiny", 4)
    distiller = us.Distiller(copy.deepcopy(net), net, [{"name": "kd"}])
    assert not any(p.requires_grad for p in net.parameters())
    assert all(p.requires_grad for p in distiller.student.parameters())
