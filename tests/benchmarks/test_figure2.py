"""The script that asks why two losses on one head collapse: its form of the released loss, and a whole small run."""

import argparse
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
from safetensors.torch import save_file

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


@pytest.mark.parametrize("name", ["binary_kl", "binary_kl_norm"])
def test_the_released_form_is_the_same_loss_until_a_sigmoid_rounds_to_one(figure2, name):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(8, 20, generator=generator, dtype=torch.float64) * 6 for _ in range(2))
    released, masked = (
        getattr(figure2, f"{form}_{name}")(ours, theirs, 2.0) for form in ("released", "masked")
    )
    assert float(released.mean()) == pytest.approx(
        float(getattr(us.losses, f"{name}_loss")(ours, theirs, 2.0)), rel=1e-6
    )
    assert masked.equal(released)


@pytest.mark.parametrize("name", ["binary_kl", "binary_kl_norm"])
def test_beyond_it_the_released_form_is_infinite_and_the_gradient_nan_or_zero(figure2, name):
    released, masked = (getattr(figure2, f"{form}_{name}") for form in ("released", "masked"))
    ours, theirs = torch.tensor([[33.0, 1.0, 0.0]]), torch.zeros(1, 3)
    assert released(ours, theirs, 2.0).isfinite()
    ours = torch.tensor([[36.0, 1.0, 0.0]], requires_grad=True)
    loss = released(ours, theirs, 2.0)
    assert loss.isinf()
    (gradient,) = torch.autograd.grad(loss, [ours])
    assert gradient.isnan().tolist() == [[True, False, False]]
    (kept,) = torch.autograd.grad(masked(ours, theirs, 2.0), [ours])
    assert kept[0, 0] == 0
    assert kept[0, 1:].equal(gradient[0, 1:])
    (stable,) = torch.autograd.grad(getattr(us.losses, f"{name}_loss")(ours, theirs, 2.0), [ours])
    assert stable[0, 0] == pytest.approx(1.0)  # τ/2: all the way back
    assert stable[0, 1] == pytest.approx(float(gradient[0, 1]), rel=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_statistics_are_the_gradients_of_autograd(figure2, shared):
    torch.manual_seed(1)
    classifier, second = torch.nn.Linear(4, 7, bias=False), torch.nn.Linear(4, 7)
    feature = torch.randn(5, 4, requires_grad=True)
    z, t, target = classifier(feature), torch.randn(5, 7) * 3, torch.arange(5)
    guided = z if shared else second(feature)
    loss = us.losses.binary_kl_loss if shared else us.losses.binary_kl_norm_loss
    found = figure2.statistics(feature, z, guided, t, target)
    label, guide = torch.nn.functional.cross_entropy(z, target), loss(guided, t, 2.0)
    places = {"label_gradient": (label, z), "teacher_gradient": (guide, guided)}
    for key, (value, logits) in places.items():
        (gradient,) = torch.autograd.grad(value, [logits], retain_graph=True)
        assert found[key] == pytest.approx(5 * float(gradient.norm(dim=1).mean()), rel=1e-5)
    places = {"feature": feature, "classifier": classifier.weight} if shared else {"feature": feature}
    for key, place in places.items():
        a, b = (torch.autograd.grad(v, [place], retain_graph=True)[0] for v in (label, guide))
        cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
        assert found[key] == pytest.approx(float(cosine), abs=1e-5)
    assert shared or found["classifier"] is None
    assert found["argument"] == pytest.approx(float((guided if shared else guided - t).detach().max()))
    assert found["released_is_finite"]
    far = guided * 100
    again = figure2.statistics(feature, far if shared else z, far, t, target)
    assert not again["released_is_finite"]
    assert again["argument"] > 34


def test_steps_near_the_overflow_and_dead_ones_are_all_looked_at(figure2, tmp_path):
    torch.manual_seed(2)
    feature, counter = torch.randn(3, 4, requires_grad=True), figure2._counter()
    classifier = torch.nn.Linear(4, 5, bias=False)
    for scale in (1.0, 1.0, 100.0, 1.0, float("nan")):
        student = {"feature": feature, "logits": classifier(feature) * scale}
        file = str(tmp_path / "looks.jsonl")
        figure2.look(file, counter, student, student["logits"], torch.zeros(3, 5), torch.arange(3))
    looks = [json.loads(line) for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert [(line["step"], line["finite"]) for line in looks] == [(0, True), (2, True), (4, False)]


def test_a_scaled_teacher_differs_in_its_logits_alone(figure2, tmp_path):
    network = us.create_model("cnn_tiny", num_classes=5)
    save_file(network.state_dict(), tmp_path / "teacher.safetensors", {"classes": "[]"})
    options = argparse.Namespace(out=tmp_path, teacher=str(tmp_path / "teacher.safetensors"))
    assert figure2.scaled_teacher(options, 1.0) == options.teacher
    path = figure2.scaled_teacher(options, 1.5)
    scaled = us.create_model("cnn_tiny", num_classes=5, weights=path).eval()
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(scaled(images), 1.5 * network.eval()(images))
    assert figure2.scaled_teacher(options, 1.5) == path


def write_images(path, count):
    generator = torch.Generator().manual_seed(count)
    rows = []
    for number in range(count):
        picture = io.BytesIO()
        pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(picture, "PNG")
        rows.append({"image": {"bytes": picture.getvalue(), "path": None}, "label": number % 3})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_the_runs_of_a_table_can_be_made_again(figure2):
    table = Path(__file__).parents[2] / "results" / "figure2" / "table.json"
    options = argparse.Namespace(again=str(table), epochs=12, lr=[0.3], scale=[3.0], seeds=[4])
    chosen = figure2.again(options)
    assert [figure2.asdict(case) for case in chosen] == [
        {key: run[key] for key in ("scale", "seed", "lr", "arm")}
        for run in json.loads(table.read_text())["runs"]
    ]
    assert options.epochs == 3
    assert set(chosen) <= set(figure2.cases(options, figure2.ARMS))  # where the table looks for them


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
    assert [run["arm"] for run in runs] == figure2.ARMS
    stable, *released = (next(r for r in runs if r["arm"] == f"binary_kl, {form}") for form in figure2.FORMS)
    assert {r["test/acc1"] for r in released} == {stable["test/acc1"]}  # nothing overflows here
    assert {run["first_overflow"] for run in runs} == {None}
    for arm in ("dhkd, released", "dhkd, released, masked"):
        scores = {r["test/acc1"] for r in runs if r["arm"] in (arm, "dhkd, stable")}
        assert len(scores) == 1, arm
    assert (tmp_path / "out" / "table.md").read_text().count("after the last epoch") == len(figure2.ARMS)
    other = subprocess.run([*command, "--epochs", "2"], capture_output=True, text=True, check=False)
    assert "must hold the same run, got another value for train.epochs" in other.stderr
    table = tmp_path / "out" / "table.json"
    moved = [*command, "--out", str(tmp_path / "new"), "--table", "--beside", str(table)]
    subprocess.run(moved, check=True)
    assert (tmp_path / "new" / "table.json").read_text() == table.read_text()
