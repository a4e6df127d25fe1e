"""The script that asks why two losses on one head collapse: its form of the released loss, and a whole small run."""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import understudy as us

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "figure2.py"


@pytest.fixture(scope="module")
def figure2():
    spec = importlib.util.spec_from_file_location("figure2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["figure2"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["figure2"]


def test_the_released_form_is_the_same_loss_until_a_sigmoid_rounds_to_one(figure2):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(8, 20, generator=generator, dtype=torch.float64) * 6 for _ in range(2))
    assert figure2.released_binary_kl(ours, theirs, 2.0) == pytest.approx(
        float(us.losses.binary_kl_loss(ours, theirs, 2.0)), rel=1e-6
    )
    assert figure2.masked_binary_kl(ours, theirs, 2.0) == figure2.released_binary_kl(ours, theirs, 2.0)


def test_beyond_it_the_released_form_is_infinite_and_the_gradient_nan_or_zero(figure2):
    ours, theirs = torch.tensor([[33.0, 1.0, 0.0]]), torch.zeros(1, 3)
    assert figure2.released_binary_kl(ours, theirs, 2.0).isfinite()
    ours = torch.tensor([[36.0, 1.0, 0.0]], requires_grad=True)
    loss = figure2.released_binary_kl(ours, theirs, 2.0)
    assert loss.isinf()
    (gradient,) = torch.autograd.grad(loss, [ours])
    assert gradient.isnan().tolist() == [[True, False, False]]
    (masked,) = torch.autograd.grad(figure2.masked_binary_kl(ours, theirs, 2.0), [ours])
    assert masked[0, 0] == 0
    assert masked[0, 1:].equal(gradient[0, 1:])
    (stable,) = torch.autograd.grad(us.losses.binary_kl_loss(ours, theirs, 2.0), [ours])
    assert stable[0, 0] == pytest.approx(1.0)  # τ/2: all the way back
    assert stable[0, 1] == pytest.approx(float(gradient[0, 1]), rel=1e-4)


def test_statistics_are_the_gradients_of_autograd(figure2):
    generator = torch.Generator().manual_seed(1)
    z, t = (torch.randn(5, 7, generator=generator) * 3 for _ in range(2))
    target = torch.arange(5)
    found = figure2.statistics(z, t, target)
    z.requires_grad_()
    (label,) = torch.autograd.grad(torch.nn.functional.cross_entropy(z, target, reduction="sum"), [z])
    (guide,) = torch.autograd.grad(us.losses.binary_kl_loss(z, t, 2.0) * len(z), [z])
    assert found["label_gradient"] == pytest.approx(float(label.norm(dim=1).mean()), rel=1e-5)
    assert found["teacher_gradient"] == pytest.approx(float(guide.norm(dim=1).mean()), rel=1e-5)
    assert found["cosine"] == pytest.approx(
        float(torch.cosine_similarity(label, guide, dim=1).mean()), rel=1e-4
    )
    assert found["released_is_finite"]
    assert not figure2.statistics(z.detach() * 30, t, target)["released_is_finite"]


def write_images(path, count):
    generator = torch.Generator().manual_seed(count)
    rows = []
    for number in range(count):
        picture = io.BytesIO()
        pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(picture, "PNG")
        rows.append({"image": {"bytes": picture.getvalue(), "path": None}, "label": number % 3})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.slow
def test_every_arm_ends_in_the_table(figure2, tmp_path):
    for name, count in (("train", 72), ("test", 12)):
        write_images(tmp_path / f"{name}.parquet", count)
    us.train(
        {
            "data": {"name": "parquet", "train": str(tmp_path / "train.parquet")},
            "student": {"model": "cnn_small"},
            "train": {"epochs": 1, "threads": 1},
            "output": str(tmp_path / "teacher"),
        },
        quiet=True,
    )
    options = {
        "train": tmp_path / "train.parquet",
        "test": tmp_path / "test.parquet",
        "teacher": tmp_path / "teacher" / "student.safetensors",
        "teacher-model": "cnn_small",
        "student-model": "cnn_tiny",
        "out": tmp_path / "out",
        "epochs": 1,
        "lr": 0.05,
    }
    command = [
        sys.executable,
        str(SCRIPT),
        *(word for k, v in options.items() for word in (f"--{k}", str(v))),
    ]
    for _ in range(2):  # the second time there is nothing left to do
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
    runs = json.loads((tmp_path / "out" / "table.json").read_text())["runs"]
    assert [run["arm"] for run in runs] == list(figure2.ARMS)
    stable, *released = (next(r for r in runs if r["arm"] == f"binary_kl, {form}") for form in figure2.FORMS)
    assert {r["test/acc1"] for r in released} == {stable["test/acc1"]}  # nothing overflows here
    assert stable["released_not_finite"] == 0
    assert (tmp_path / "out" / "table.md").read_text().count("after the last epoch") == len(figure2.ARMS)
