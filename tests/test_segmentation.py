"""Segmentation as a user runs it: the same verbs, folders and promises as for classification."""

import io
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
from understudy.compare import compare
from understudy.config import load_config
from understudy.doctor import doctor
from understudy.engine import loop
from understudy.files import read_json_lines
from understudy.metrics import pixel_confusion
from understudy.predict import load_predictor, write_masks
from understudy.report import write_run_report

SIZE = (24, 32)
CLASSES = ("left", "square", "right")


def scene(seed):
    """A picture of two halves and a square, noisy, and its mask; the rim is ignored."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[:, int(rng.integers(10, 22)) :] = 2
    y, x = rng.integers(2, 14), rng.integers(2, 22)
    mask[y : y + 8, x : x + 8] = 1
    colours = np.array([[60, 90, 200], [220, 60, 60], [70, 180, 80]])
    picture = (colours[mask] + rng.normal(0, 25, (*SIZE, 3))).clip(0, 255).astype(np.uint8)
    mask[0] = 255
    return picture, mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 26), ("val", 7)):
        for i in range(count):
            picture, mask = scene(i + (1000 if split == "val" else 0))
            for kind, values in (("images", picture), ("labels", mask)):
                path = root / kind / split / f"{i:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def config_of(folder, output, **changes):
    return load_config(
        {
            "seed": 1,
            "data": {
                "name": "maskfolder", "root": str(folder), "val": 0.15,
                "augment": {"name": "scale_crop", "crop": [20, 28]},
            },
            "teacher": {"model": "fcn_small"},
            "student": {"model": "fcn_tiny"},
            "losses": [
                {"name": "ce"}, {"name": "kd"}, {"name": "dhkd", "head": "mlp", "weight": 0.2},
                {"name": "cwd", "weight": 0.1},
            ],
            "gradients": {"align": "backbone"},
            "train": {
                "epochs": 3, "batch_size": 8, "ema": 0.5, "accumulate": 2, "device": "cpu", "threads": 1,
                "optimizer": {"name": "adamw", "lr": 0.01}, "schedule": {"name": "cosine"},
            },
            "output": str(output),
        },
        changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """A teacher that was trained, a student under it, and the folder of both."""
    root = tmp_path_factory.mktemp("runs")
    alone = us.train(
        config_of(folder, root / "teacher", **{"student.model": "fcn_small", "train.epochs": 12}), quiet=True
    )
    weights = str(alone.path / "student.safetensors")
    student = us.distill(config_of(folder, root / "student", **{"teacher.weights": weights}), quiet=True)
    return alone, student, root


def test_a_run_learns_and_says_so_in_miou(runs):
    alone, student, _ = runs
    assert alone.metrics["last"]["test/miou"] > 60
    lines = read_json_lines(student.path / "metrics.jsonl")
    keys = {
        "train/miou",
        "train/pixel_acc",
        "train/kd",
        "train/dhkd",
        "train/cwd",
        "val/miou",
        "val/pixel_acc",
    }
    assert keys <= lines[0].keys()
    assert not any("acc1" in key for line in lines for key in line)
    assert ["test/miou" in line for line in lines] == [False, False, True]
    result = student.metrics
    assert result["task"] == "segmentation"
    assert result["best"]["val/miou"] == max(line["val/miou"] for line in lines)
    assert result["teacher"]["test/miou"] == alone.metrics["last"]["test/miou"]
    assert sum(map(sum, result["confusion"])) == 7 * (SIZE[0] - 1) * SIZE[1]
    assert len(result["class_iou"]) == len(result["teacher"]["class_iou"]) == 3
    assert 0 < result["teacher"]["agreement"] <= 100


def test_the_scores_are_those_of_the_deployed_weights(folder, runs):
    _, student, _ = runs
    predictor = load_predictor(student.path)
    table = torch.zeros(3, 3, dtype=torch.int64)
    for i in range(7):
        answer = predictor(folder / f"images/val/{i:02d}.png")
        assert sum(answer.probabilities) == pytest.approx(1)
        table += pixel_confusion(answer.mask, torch.tensor(scene(1000 + i)[1]), 3)
    assert table.tolist() == student.metrics["confusion"]


@pytest.mark.parametrize("steps", [2, 4])
def test_a_stopped_run_resumes_to_the_same_bits(folder, runs, tmp_path, monkeypatch, steps):
    _, whole, _ = runs
    weights = whole.config.teacher.weights
    step, done = loop._forward_backward, []

    def counted(job, *rest):
        step(job, *rest)
        done.append(1)
        if len(done) == steps:
            job.stop.set()

    monkeypatch.setattr(loop, "_forward_backward", counted)
    with pytest.raises(loop.InterruptedRunError):
        us.distill(config_of(folder, tmp_path / "run", **{"teacher.weights": weights}), quiet=True)
    again = us.resume(tmp_path / "run", quiet=True)
    ours, theirs = (load_file(run.path / "student.safetensors") for run in (whole, again))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = [read_json_lines(run.path / "metrics.jsonl") for run in (whole, again)]
    for one, other in zip(*lines, strict=True):
        assert {k: v for k, v in one.items() if k != "images_per_second"} == {
            k: v for k, v in other.items() if k != "images_per_second"
        }


def test_large_images_are_measured_a_few_at_a_time(folder, runs, tmp_path, monkeypatch):
    alone, _, _ = runs
    monkeypatch.setattr(build, "_PIXELS_AT_ONCE", 2 * SIZE[0] * SIZE[1])
    found = us.evaluate(alone.path, quiet=True)
    assert found["test/miou"] == alone.metrics["last"]["test/miou"]
    built = build.build(alone.config, torch.device("cpu"))
    assert [
        len(batch.target) for batch in build.eval_batches(built.data.test, built, torch.device("cpu"))
    ] == [2, 2, 2, 1]
    built.distiller.close()


def test_evaluate_says_every_class(runs):
    _, student, _ = runs
    found = us.evaluate(student.path, quiet=True)
    assert found["test/miou"] == student.metrics["last"]["test/miou"]
    each = [found[f"test/iou/{name}"] for name in CLASSES]
    assert sum(each) / 3 == pytest.approx(found["test/miou"])
    assert found["teacher/miou"] == student.metrics["teacher"]["test/miou"]
    assert found["agreement"] == student.metrics["teacher"]["agreement"]


def test_predict_writes_masks_of_the_images_own_size(folder, runs, tmp_path):
    _, student, _ = runs
    large = tmp_path / "large.png"
    Image.fromarray(scene(5)[0]).resize((100, 40)).save(large)
    (written,) = write_masks(load_predictor(student.path), [large], tmp_path / "masks")
    with Image.open(written) as mask:
        assert mask.size == (100, 40)
        assert mask.mode == "P"
        assert set(np.unique(np.asarray(mask))) <= {0, 1, 2}
    with pytest.raises(ValueError, match="must have names of their own"):
        write_masks(load_predictor(student.path), [large, large], tmp_path / "masks")
    before = large.read_bytes()
    with pytest.raises(ValueError, match=r"out must not be where the images lie, got .*large\.png"):
        write_masks(load_predictor(student.path), [large], tmp_path)
    assert large.read_bytes() == before


def test_doctor_knows_masks(folder, runs, tmp_path):
    alone, _, _ = runs
    weights = str(alone.path / "student.safetensors")
    found = doctor(config_of(folder, tmp_path / "no", **{"teacher.weights": weights}), quiet=True)
    texts = {f["check"]: f["text"] for f in found["findings"]}
    assert "26 training images" not in texts["data"]  # some are held out
    assert "4.2% of the pixels ignored" in texts["data"]
    assert "mIoU" in texts["teacher"]
    assert "no table keeps" in texts["table"]
    poor = doctor(config_of(folder, tmp_path / "no"), quiet=True)
    (teacher,) = (f for f in poor["findings"] if f["check"] == "teacher")
    assert teacher["status"] == "warning"


def test_the_page_shows_masks_of_everybody(runs):
    alone, student, _ = runs
    page = write_run_report(student.path, alone.path).read_text(encoding="utf-8")
    for text in (
        "mIoU",
        "What the teacher says",
        "What the student alone says",
        "What the student says",
        "#rrggbb",
    ):
        assert (text in page) == (text != "#rrggbb"), text
    assert page.count('class="example"') == 6
    assert "top-1" not in page


@pytest.mark.parametrize(
    "fault", ["not JSON", "[]", '{"format": 1, "images": [{"position": 0}]}', "pictures"]
)
def test_damaged_examples_are_one_line(runs, tmp_path, fault):
    _, student, _ = runs
    bad = {"format": 1, "images": [dict.fromkeys(("image", "truth", "student"), "AAAA") | {"position": 0}]}
    for name in ("result.json", "metrics.jsonl", "config.yaml"):
        (tmp_path / name).write_bytes((student.path / name).read_bytes())
    (tmp_path / "examples.json").write_text(json.dumps(bad) if fault == "pictures" else fault)
    with pytest.raises(ValueError, match=r"examples\.json must") as error:
        write_run_report(tmp_path)
    assert "\n" not in str(error.value)


def test_a_study_is_judged_by_miou(folder, runs, tmp_path):
    alone, _, _ = runs
    weights = str(alone.path / "student.safetensors")
    changes = {
        "teacher.weights": weights,
        "train.epochs": 1,
        "losses": [{"name": "ce"}],
        "gradients.align": "none",
    }
    plan = {"methods": [{"name": "pixels", "losses": [{"name": "ce"}, {"name": "kd"}]}], "seeds": [0, 1]}
    config = config_of(folder, tmp_path / "study", study=plan, **changes)
    study = us.study(config, quiet=True)
    assert study.table["metric"] == "test/miou"
    assert [arm["name"] for arm in study.table["arms"]] == ["teacher", "student alone", "pixels"]
    assert all(0 < run["test/miou"] <= 100 for arm in study.table["arms"] for run in arm["runs"])
    page = (study.path / "report.html").read_text(encoding="utf-8")
    assert "Test mIoU, %" in page
    assert "test mIoU" in (study.path / "table.md").read_text(encoding="utf-8")
    pairs = [study.path / arm / f"seed-{seed}" for arm in ("student-alone", "pixels") for seed in (0, 1)]
    compared = compare(pairs, quiet=True)
    assert compared["metric"] == "test/miou"


def test_the_whole_network_is_exported_with_parity(runs, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    _, student, _ = runs
    done = us.export(student.path, ["onnx", "pt2"], tmp_path / "export", quiet=True)
    figures = done.report["onnx"]
    assert figures["miou"] == student.metrics["last"]["test/miou"]
    assert figures["max_difference"] < 1e-3
    session = onnxruntime.InferenceSession(done.files["onnx"], providers=["CPUExecutionProvider"])
    images = np.zeros((3, 3, *SIZE), dtype=np.float32)
    (logits,) = session.run(["logits"], {"images": images})
    assert logits.shape == (3, 3, *SIZE)
    program = torch.export.load(done.files["pt2"]).module()
    np.testing.assert_allclose(program(torch.tensor(images)).detach().numpy(), logits, atol=1e-4)
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-segmentation" in card
    assert f"Test mIoU {student.metrics['last']['test/miou']:.2f}%" in card


BAD = [
    (
        {"student.model": "cnn_tiny", "teacher.model": "cnn_small", "losses": [{"name": "ce"}, {"name": "kd"}]},
        r"student.model must suit the data, got cnn_tiny, which classifies the image, for maskfolder with a mask",
    ),
    ({"data.augment": {"name": "pad_crop"}}, r"data.augment.name must be scale_crop for images with masks"),
    ({"data.augment.zoom": [2.0, 1.0]}, r"data.augment.zoom must be two rising factors"),
    ({"gradients.align": "paper"}, r"gradients.align must not be paper for segmentation"),
    ({"losses": [{"name": "crd"}]}, r"term 'crd' must read each pixel's logits alone"),
    ({"teacher.model": "cnn_small"}, r"must both classify images or both pixels"),
    ({"teacher.table": "somewhere"}, r"teacher.table must be off where a term reads maps"),
    ({"data.image_size": [90]}, r"data.image_size must be a number from 8 up, or \[HEIGHT,WIDTH\] .* got \[90\]"),
    ({"data.image_size": [4, 90]}, r"data.image_size must be a number from 8 up"),
    ({"data.test": "train"}, r"data.train and data.test must be two splits"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "match"), BAD, ids=[next(iter(changes)) for changes, _ in BAD])
def test_a_wrong_config_is_one_line_and_leaves_nothing_behind(folder, tmp_path, changes, match):
    config = config_of(folder, tmp_path / "run")
    with pytest.raises(ValueError, match=match) as error:
        us.distill(config, quiet=True, **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_pixels_are_not_for_labels_of_images(digits_config):
    digits_config["student"]["model"] = "fcn_tiny"
    digits_config["losses"], digits_config["teacher"] = [{"name": "ce"}], None
    with pytest.raises(ValueError, match="which classifies every pixel, for digits with a label an image"):
        us.train(digits_config, quiet=True)
    digits_config["student"]["model"] = "cnn_tiny"
    digits_config["data"]["augment"] = {"name": "scale_crop"}
    with pytest.raises(ValueError, match="scale_crop must have images with masks, got digits"):
        us.train(digits_config, quiet=True)


def test_the_command_line_ends_with_status_2_on_a_broken_mask(folder, tmp_path):
    root = tmp_path / "scenes"
    for path in folder.rglob("*.*"):
        copy = root / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (root / "labels/train/03.png").unlink()
    (tmp_path / "c.yaml").write_text(config_of(root, tmp_path / "run").yaml())
    command = [sys.executable, "-m", "understudy", "distill", str(tmp_path / "c.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("understudy: every image must have a mask, got ")
    assert len(ended.stderr.splitlines()) == 1


def test_an_analysis_that_needs_vectors_says_so(runs):
    _, student, _ = runs
    with pytest.raises(ValueError, match="gives each image one class, got one of segmentation"):
        analyze(student.path)


def test_the_picture_of_a_mask_holds_its_numbers():
    from understudy.report.examples import mask_picture

    mask = np.array([[0, 1], [254, 255]], dtype=np.uint8)
    file = io.BytesIO()
    mask_picture(mask, 255).save(file, format="PNG")
    with Image.open(file) as picture:
        assert np.array_equal(np.asarray(picture), mask)
        assert picture.convert("RGB").getpixel((1, 1)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("batch", "accumulate"), [(5, 1), (2, 2)]
)  # of 26 images the last is alone; parts of one
def test_a_batch_of_one_image_under_aspp_is_refused_before_the_run(folder, tmp_path, batch, accumulate):
    changes = {
        "student.model": "deeplabv3_resnet18",
        "losses": [{"name": "ce"}],
        "data.val": 0.0,
        "train.batch_size": batch,
        "train.accumulate": accumulate,
    }
    config = config_of(folder, tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=rf"two images or more for deeplabv3_resnet18.*batch_size {batch}\)"):
        us.train(config, quiet=True)
    assert not (tmp_path / "run").exists()
    finding = us.doctor(config, quiet=True)["findings"][-1]
    assert "two images or more" in finding["text"]
    us.train(config, quiet=True, **{"student.model": "fcn_tiny", "train.epochs": 1})  # nobody else minds
