"""Apple's MPS, as far as it can be tested without one: its path runs on a CPU that is told to have no float64."""

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import understudy as us
from understudy import job, run, widest
from understudy.data import EvalLoader, PadCropFlip, ResizedCrop, TrainLoader, load
from understudy.engine import launch
from understudy.engine.launch import join

LOSSES = [
    [{"name": "ce"}, {"name": "dhkd"}],
    [{"name": "ce"}, {"name": "dino"}, {"name": "kd", "weight": {"warmup_epochs": 1}}],
    [{"name": "ce"}, {"name": "at"}, {"name": "pkt"}, {"name": "rkd"}, {"name": "ofd"}],
]


class NoFloat64(TorchDispatchMode):
    """Notes every operation that makes a float64 tensor."""

    def __init__(self):
        super().__init__()
        self.made = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = (x for x in tree_leaves(out) if isinstance(x, torch.Tensor))
        if any(tensor.dtype == torch.float64 for tensor in tensors):
            self.made.add(str(func))
        return out


@pytest.fixture
def narrow(monkeypatch):
    """Makes the CPU a device without float64."""
    monkeypatch.setattr(widest, "NARROW", {"mps", "cpu"})


@pytest.fixture
def watched(monkeypatch):
    """Notes what makes float64 tensors once the data are read and the networks stand: tables, preparation, training."""
    mode = NoFloat64()

    def within(function):
        def call(*args, **kwargs):
            with mode:
                return function(*args, **kwargs)

        return call

    for module, name in ((job, "settle_precision"), (job, "attach_answers"), (run, "take_up"), (run, "fit")):
        monkeypatch.setattr(module, name, within(getattr(module, name)))
    return mode


def config(digits_config, losses, **train):
    align = "backbone" if len(losses) == 2 else "none"
    return digits_config | {
        "losses": losses,
        "gradients": {"align": align},
        "train": digits_config["train"] | {"epochs": 1, "diagnose_every": 1} | train,
    }


@pytest.mark.parametrize("losses", LOSSES, ids=lambda losses: "+".join(term["name"] for term in losses))
def test_an_epoch_makes_no_float64_tensor(digits_config, narrow, watched, losses):
    done = us.distill(config(digits_config, losses), quiet=True)
    assert watched.made == set()
    assert "has not been run on it" in (done.path / "train.log").read_text()


def test_the_probe_sees_the_float64_of_other_devices(digits_config, watched):
    us.distill(config(digits_config, LOSSES[0]), quiet=True)
    assert watched.made


def test_the_numbers_are_those_of_float64_up_to_rounding(digits_config, tmp_path, monkeypatch):
    exact = us.distill(config(digits_config, LOSSES[0]), quiet=True)
    monkeypatch.setattr(widest, "NARROW", {"mps", "cpu"})
    rounded = us.distill(config(digits_config, LOSSES[0]), quiet=True, output=str(tmp_path / "narrow"))
    for name, tensor in load_file(rounded.path / "student.safetensors").items():
        expected = load_file(exact.path / "student.safetensors")[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-4)


def test_steps_are_taken_without_fused_kernels_and_in_the_usual_layout(digits_config, narrow, monkeypatch):
    made = []
    step = torch.optim.SGD.step

    def seen(optimizer, *rest):
        group = optimizer.param_groups[0]
        maps = [p for p in group["params"] if p.dim() == 4]
        made.append((group["fused"], all(p.is_contiguous() for p in maps)))
        return step(optimizer, *rest)

    monkeypatch.setattr(torch.optim.SGD, "step", seen)
    us.distill(config(digits_config, LOSSES[0]), quiet=True)
    assert set(made) == {(False, True)}


@pytest.mark.parametrize("augment", [PadCropFlip(2), ResizedCrop(colour=0.2)])
def test_images_are_rendered_on_the_host_and_handed_over(narrow, augment):
    data = load("digits", limit=20)
    arguments = {"batch_size": 8, "mean": data.mean, "std": data.std, "device": "meta"}
    here = {**arguments, "device": "cpu"}
    assert widest.NARROW.add("meta") is None  # a device of which we only see where things are
    train = TrainLoader(data.train, augment, seed=0, **arguments)
    assert train.image_set.device.type == "cpu"
    ours = next(TrainLoader(data.train, augment, seed=0, **here).epoch(0))
    theirs = next(train.epoch(0))
    columns = (theirs.images, theirs.target, theirs.index, theirs.view)
    assert {column.device.type for column in columns} == {"meta"}
    assert theirs.images.shape == ours.images.shape
    assert next(iter(EvalLoader(data.test, **arguments))).images.device.type == "meta"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.precision", "bf16"),
        ("train.divergence.policy", "skip"),
        ("teacher.precision", "bf16"),
        ("teacher.table_dtype", "fp64"),
    ],
)
def test_what_has_not_been_seen_to_work_is_refused_in_one_line(digits_config, narrow, key, value):
    with pytest.raises(
        ValueError, match=rf"^{key} must be left at its default on cpu, got another\. Take it out"
    ):
        us.distill(config(digits_config, LOSSES[0]), quiet=True, **{key: value})


def test_detection_is_refused(narrow, drawn, tmp_path):
    boxes = {"name": "coco", "root": str(drawn.write(tmp_path)), "val": 0.2}
    with pytest.raises(
        ValueError, match=r"train\.device must be cpu or cuda where objects are found, got cpu"
    ):
        us.train(
            {"data": boxes, "student": {"model": "frcnn_tiny"}, "output": str(tmp_path / "run")}, quiet=True
        )


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(launch, "launched", lambda: object())
    with pytest.raises(ValueError, match="must be cpu or cuda for several processes, got mps"):
        join(torch.device("mps"))


def test_analyses_are_refused(digits_config, monkeypatch):
    alone = us.train(digits_config, quiet=True, **{"train.epochs": 1})
    monkeypatch.setattr(widest, "NARROW", {"cpu"})
    with pytest.raises(ValueError, match="analyze must run on a device with float64"):
        us.analyze(alone.path, quiet=True)


def test_float64_is_the_widest_type_elsewhere_and_its_gradient_comes_back_narrow():
    x = torch.ones(2, requires_grad=True)
    assert widest.widen(x).dtype == torch.float64
    widest.widen(x).sum().backward()
    assert x.grad.dtype == torch.float32
    assert widest.widest(torch.device("cuda")) == torch.float64
    assert widest.widest(torch.device("mps")) == torch.float32
