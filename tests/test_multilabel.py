"""Images of several classes as a user runs them: the same verbs, folders and promises as for one class each."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import understudy as us
from understudy import build
from understudy.analyses.job import analyze
from understudy.config import load_config
from understudy.doctor import doctor
from understudy.engine import loop
from understudy.exports import export
from understudy.files import read_json_lines
from understudy.metrics import average_precision
from understudy.predict import load_predictor

CLASSES = ("bar", "dot", "ring")


def picture(rng):
    """A noisy picture with any of three shapes, and which."""
    there = rng.random(3) < 0.45
    pixels = rng.normal(90, 20, (16, 16))
    y, x = rng.integers(1, 8, 2)
    if there[0]:
        pixels[rng.integers(0, 15)] = 255
    if there[1]:
        pixels[y : y + 3, x : x + 3] = 0
    if there[2]:
        pixels[8:15, 8] = pixels[8:15, 14] = pixels[8, 8:15] = pixels[14, 8:15] = 200
    return pixels.clip(0, 255).astype(np.uint8), [c for c, shown in zip(CLASSES, there, strict=True) if shown]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for name, count in (("train", 240), ("test", 60)):
        rows = []
        for i in range(count):
            pixels, classes = picture(rng)
            path = root / name / f"{i:03d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path)
            rows.append([f"{name}/{i:03d}.png", "|".join(classes) or "|"])
        with (root / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["image", "label"], *rows])
    return root


def config_of(folder, output, **changes):
    return load_config(
        {
            "seed": 1,
            "data": {
                "name": "manifest", "train": str(folder / "train.csv"), "test": str(folder / "test.csv"),
                "label_separator": "|", "channels": 1, "val": 0.15, "augment": {"name": "pad_crop", "pad": 1},
            },
            "teacher": {"model": "cnn_small"},
            "student": {"model": "cnn_tiny"},
            "losses": [
                {"name": "bce", "pos_weight": "auto"}, {"name": "binary_kl", "weight": 0.2},
                {"name": "dhkd", "head": "mlp", "weight": 0.2},
            ],
            "gradients": {"align": "backbone"},
            "train": {
                "epochs": 3, "batch_size": 32, "ema": 0.5, "accumulate": 2, "device": "cpu", "threads": 1,
                "optimizer": {"name": "adamw", "lr": 0.01}, "schedule": {"name": "cosine"},
            },
            "output": str(output),
        },
        changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    changes = {
        "student.model": "cnn_small",
        "train.epochs": 12,
        "train.ema": None,
        "losses": [{"name": "bce"}],
    }
    alone = us.train(config_of(folder, root / "teacher", **changes), quiet=True)
    weights = str(alone.path / "student.safetensors")
    student = us.distill(config_of(folder, root / "student", **{"teacher.weights": weights}), quiet=True)
    return alone, student, root


def test_a_run_learns_and_says_so_in_map(runs):
    alone, student, _ = runs
    assert alone.metrics["last"]["test/map"] > 80
    lines = read_json_lines(student.path / "metrics.jsonl")
    assert {"train/f1", "train/bce", "train/dhkd", "val/map", "val/f1"} <= lines[0].keys()
    assert not any("acc1" in key or key == "train/map" for line in lines for key in line)
    result = student.metrics
    assert result["task"] == "multilabel"
    assert result["best"]["val/map"] == max(line["val/map"] for line in lines)
    assert result["teacher"]["test/map"] == alone.metrics["last"]["test/map"]
    assert result["measured"] == 60 * 3
    assert "confusion" not in result
    assert len(result["class_ap"]) == len(result["teacher"]["class_ap"]) == 3


def test_train_takes_the_config_of_a_distillation_with_its_terms_of_labels(folder, tmp_path):
    run = us.train(config_of(folder, tmp_path / "alone", **{"train.epochs": 1}), quiet=True)
    (term,) = run.config.losses
    assert term["name"] == "bce"
    assert len(term["pos_weight"]) == len(CLASSES)  # auto, of these images
    assert "test/map" in run.metrics["last"]


def test_the_scores_are_those_of_the_deployed_weights(folder, runs):
    _, student, _ = runs
    built = build.build(config_of(folder, student.path), torch.device("cpu"))
    network = us.create_model("cnn_tiny", 3, in_channels=1)
    network.load_state_dict(load_file(student.path / "student.safetensors"))
    (batch,) = build.eval_batches(built.data.test, built, torch.device("cpu"))
    with torch.no_grad():
        precision = average_precision(network.eval()(batch.images), batch.target)
    assert 100 * float(precision.mean()) == student.metrics["last"]["test/map"]
    assert [100 * x for x in precision.tolist()] == student.metrics["class_ap"]
    built.distiller.close()


def test_evaluate_names_the_classes(runs):
    _, student, _ = runs
    found = us.evaluate(student.path, quiet=True)
    assert found["test/map"] == pytest.approx(student.metrics["last"]["test/map"])
    assert {f"test/ap/{name}" for name in CLASSES} < found.keys()


def test_a_run_that_was_stopped_within_an_epoch_goes_on_to_the_same_bits(folder, runs, tmp_path, monkeypatch):
    _, whole, root = runs
    weights = str(root / "teacher" / "student.safetensors")
    seen, backward = [], loop._forward_backward

    def stopping(job, *rest):
        seen.append(job.step)
        if len(seen) == 9:
            job.stop.set()
        return backward(job, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", stopping)
        with pytest.raises(loop.InterruptedRunError):
            us.distill(config_of(folder, tmp_path / "run", **{"teacher.weights": weights}), quiet=True)
    us.resume(tmp_path / "run", quiet=True)
    ours, theirs = (load_file(path / "student.safetensors") for path in (tmp_path / "run", whole.path))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    keys = ("train/f1", "train/bce", "val/map")
    lines = [read_json_lines(path / "metrics.jsonl") for path in (tmp_path / "run", whole.path)]
    assert [[line[k] for k in keys] for line in lines[0]] == [[line[k] for k in keys] for line in lines[1]]


def test_prediction_is_a_sigmoid_a_class(folder, runs):
    _, student, _ = runs
    predictor = load_predictor(student.path)
    image = folder / "test" / "000.png"
    answer = predictor(image, top=3)
    pixels = np.asarray(Image.open(image))
    with torch.no_grad():
        expected = predictor.module(predictor._normalised(pixels[None])).sigmoid()[0]
    assert dict(zip(answer.classes, answer.probabilities, strict=True)) == {
        name: pytest.approx(float(p)) for name, p in zip(CLASSES, expected, strict=True)
    }


def test_it_is_exported_with_its_task_and_served(folder, runs, tmp_path):
    pytest.importorskip("onnxruntime")
    _, student, _ = runs
    export(student.path, ["onnx", "int8"], tmp_path, quiet=True)
    assert "finds any number of classes" in (tmp_path / "README.md").read_text()
    report = json.loads((tmp_path / "export.json").read_text())
    assert report["onnx"]["max_difference"] < 1e-4
    images = [str(folder / "test" / f"{i:03d}.png") for i in (0, 1)]
    said = subprocess.run(
        [sys.executable, "examples/serve.py", str(tmp_path / "model.onnx"), *images],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    predictor = load_predictor(student.path)
    for line, image in zip(said.splitlines(), images, strict=True):
        best = predictor(image, top=1)
        assert line.startswith(f"{image}: {best.classes[0]} {100 * best.probabilities[0]:.1f}%"[:-3])


def test_doctor_looks_at_every_class(folder, runs):
    _, _, root = runs
    good = config_of(folder, root / "d", **{"teacher.weights": str(root / "teacher" / "student.safetensors")})
    found = {finding["check"]: finding for finding in doctor(good, quiet=True)["findings"]}
    assert found["teacher"]["status"] == "ok"
    assert found["teacher"]["figures"]["map"] > 80
    assert "an image; the rarest" in found["data"]["text"]
    random = doctor(config_of(folder, root / "e"), quiet=True)["findings"]
    assert next(f for f in random if f["check"] == "teacher")["status"] == "warning"


def test_the_page_shows_classes_and_no_confusion(runs):
    _, student, _ = runs
    page = (student.path / "report.html").read_text()
    assert "Average precision by class" in page
    assert "mean average precision" in page
    assert "Most confused" not in page
    assert all(name in page for name in CLASSES)


def test_a_study_compares_by_map(folder, runs, tmp_path):
    _, _, root = runs
    config = config_of(
        folder, tmp_path / "study",
        **{
            "teacher.weights": str(root / "teacher" / "student.safetensors"), "train.epochs": 1,
            "losses": [{"name": "bce"}],
            "study": {"seeds": [0], "methods": [
                {"name": "dhkd", "losses": [{"name": "bce"}, {"name": "dhkd"}]}]},
        },
    )  # fmt: skip
    us.study(config, quiet=True)
    table = json.loads((tmp_path / "study" / "study.json").read_text())
    assert table["metric"] == "test/map"
    assert "average precision by class" in (tmp_path / "study" / "report.html").read_text()


def test_a_search_is_judged_by_map(folder, runs, tmp_path):
    pytest.importorskip("optuna")
    _, _, root = runs
    changes = {
        "teacher.weights": str(root / "teacher" / "student.safetensors"), "train.epochs": 1, "train.ema": None,
        "losses": [{"name": "bce"}, {"name": "binary_kl"}], "tune": {"trials": 2},
    }  # fmt: skip
    found = us.tune(config_of(folder, tmp_path / "search", **changes), quiet=True)
    assert found.table["metric"] == "val/map"
    assert found.table["best"]["val/map"] == max(trial["val/map"] for trial in found.table["trials"])
    assert "standard error" not in found.table["statements"][0]
    assert "% mAP on 36 held-out images" in found.table["statements"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": [{"name": "ce"}]}, "must not presume one class an image"),
        ({"data.balance": 1.0}, "data.balance must be left out for images with several labels"),
        (
            {"data.label_noise": {"share": 0.2}},
            "data.label_noise must be left out for images with several labels",
        ),
        (
            {"teacher.classes": {"map": [[0, 3], 1, 2], "count": 4}},
            "teacher.classes must give each class one of the teacher's",
        ),
        ({"student.model": "fcn_tiny"}, "multilabel must be left out for segmentation"),
    ],
)
def test_what_makes_no_sense_is_one_line(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        us.distill(config_of(folder, tmp_path / "run", **changes), quiet=True)
    assert "\n" not in str(error.value)


def test_analyze_says_that_it_needs_one_class(runs):
    _, student, _ = runs
    with pytest.raises(ValueError, match="gives each image one class, got one of multilabel"):
        analyze(student.path, quiet=True)


def test_mixed_images_have_the_labels_of_both(folder, tmp_path):
    changes = {
        "data.mix": {"name": "cutmix"},
        "train.epochs": 1,
        "losses": [{"name": "bce"}],
        "teacher": None,
    }
    run = us.train(config_of(folder, tmp_path / "run", **changes, **{"gradients.align": "none"}), quiet=True)
    assert run.metrics["last"]["test/map"] > 0
