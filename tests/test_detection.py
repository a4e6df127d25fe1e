"""Detection as a user runs it: the same verbs, folders and promises as for classification."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import understudy as us
from understudy import build
from understudy.analyses.job import analyze
from understudy.config import load_config
from understudy.doctor import doctor
from understudy.engine import loop
from understudy.files import read_json, read_json_lines
from understudy.predict import load_predictor, write_masks
from understudy.report import write_run_report

pytest.importorskip("pycocotools", reason="the extra detection is not installed")
OPTIONS = {"samples": 16, "proposals": 40, "anchors": [[12], [20], [28], [40], [60]]}


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    return drawn.write(tmp_path_factory.mktemp("scenes"))


def config_of(folder, output, **changes):
    return load_config(
        {
            "seed": 1,
            "data": {"name": "coco", "root": str(folder), "val": 0.2},
            "teacher": {"model": "frcnn_tiny", "options": OPTIONS},
            "student": {"model": "frcnn_tiny", "options": OPTIONS},
            "losses": [
                {"name": "ce"}, {"name": "dkd"}, {"name": "dhkd", "head": "mlp", "weight": 0.2},
                {"name": "reviewkd", "weight": 0.1}, {"name": "dino", "weight": 0.5},
            ],
            "gradients": {"align": "backbone"},
            "train": {
                "epochs": 2, "batch_size": 6, "ema": 0.5, "accumulate": 2, "device": "cpu", "threads": 1,
                "clip_norm": 10.0, "optimizer": {"name": "adamw", "lr": 0.003}, "schedule": {"name": "cosine"},
            },
            "output": str(output),
        },
        changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """A teacher that was trained, a student under it, and the folder of both."""
    root = tmp_path_factory.mktemp("runs")
    changes = {
        "train.epochs": 8,
        "train.accumulate": 1,
        "train.batch_size": 4,
        "train.ema": None,
        "data.val": 0.0,
    }
    alone = us.train(config_of(folder, root / "teacher", **changes), quiet=True)
    weights = str(alone.path / "student.safetensors")
    student = us.distill(config_of(folder, root / "student", **{"teacher.weights": weights}), quiet=True)
    return alone, student, root


def test_a_run_says_what_it_learns(runs):
    alone, student, _ = runs
    losses = [line["train/loss"] for line in read_json_lines(alone.path / "metrics.jsonl")]
    assert losses[-1] < 0.6 * losses[0]
    lines = read_json_lines(student.path / "metrics.jsonl")
    parts = {f"train/ce_{part}" for part in ("class", "box", "objectness", "proposal")}
    assert {*parts, "train/ce", "train/dkd", "train/dhkd", "train/box_acc", "val/ap", "val/ap50"} <= lines[
        0
    ].keys()
    assert sum(lines[0][part] for part in parts) == pytest.approx(lines[0]["train/ce"])
    assert not any("acc1" in key or "miou" in key for line in lines for key in line)
    result = student.metrics
    assert result["task"] == "detection"
    assert result["best"]["val/ap"] == max(line["val/ap"] for line in lines)
    assert result["teacher"]["test/ap"] == alone.metrics["last"]["test/ap"]
    assert len(result["class_ap"]) == 2
    assert "confusion" not in result


@pytest.mark.parametrize("steps", [2, 3])
def test_a_stopped_run_resumes_to_the_same_bits(folder, runs, tmp_path, monkeypatch, steps):
    _, whole, _ = runs
    step, done = loop._forward_backward, []

    def counted(job, *rest):
        step(job, *rest)
        done.append(1)
        if len(done) == steps:
            job.stop.set()

    monkeypatch.setattr(loop, "_forward_backward", counted)
    changes = {"teacher.weights": whole.config.teacher.weights}
    with pytest.raises(loop.InterruptedRunError):
        us.distill(config_of(folder, tmp_path / "run", **changes), quiet=True)
    again = us.resume(tmp_path / "run", quiet=True)
    ours, theirs = (load_file(run.path / "student.safetensors") for run in (whole, again))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = [read_json_lines(run.path / "metrics.jsonl") for run in (whole, again)]
    for one, other in zip(*lines, strict=True):
        assert {k: v for k, v in one.items() if k != "images_per_second"} == {
            k: v for k, v in other.items() if k != "images_per_second"
        }


def test_evaluate_finds_the_numbers_of_the_run(runs):
    _, student, _ = runs
    found = us.evaluate(student.path, quiet=True)
    last = student.metrics["last"]
    assert {key: found[key] for key in last if key.startswith("test/")} == {
        key: value for key, value in last.items() if key.startswith("test/")
    }
    assert found["teacher/ap50"] == student.metrics["teacher"]["test/ap50"]
    known = [found[f"test/ap/{name}"] for name in ("disc", "box")]
    assert sum(known) / 2 == pytest.approx(found["test/ap"])


def test_options_of_a_run_that_is_evaluated_can_be_overridden(runs):
    _, student, _ = runs
    assert us.evaluate(student.path, quiet=True, **{"student.options.detections": 1}) != us.evaluate(
        student.path, quiet=True
    )


def test_a_run_from_another_run_s_weights_says_what_they_were_built_with(folder, runs, tmp_path):
    alone, _, _ = runs
    config = config_of(
        folder,
        tmp_path / "again",
        **{
            "student.weights": str(alone.path / "student.safetensors"),
            "student.options": {},
            "teacher": None,
            "losses": [{"name": "ce"}],
            "gradients": {},
            "train.epochs": 1,
        },
    )
    again = us.train(config, quiet=True)
    with safe_open(again.path / "student.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["options"]) == OPTIONS
    found = us.evaluate(again.path, quiet=True)
    assert found["test/ap50"] == again.metrics["last"]["test/ap50"]


def test_the_size_of_the_batches_changes_no_score(folder, runs, monkeypatch):
    alone, _, _ = runs
    monkeypatch.setattr(build, "_PIXELS_AT_ONCE", 64 * 96)
    found = us.evaluate(alone.path, quiet=True)
    assert found["test/ap"] == pytest.approx(alone.metrics["last"]["test/ap"], abs=1e-9)


def test_predict_finds_boxes_at_the_images_own_size(folder, runs, drawn, tmp_path):
    alone, _, _ = runs
    predictor = load_predictor(alone.path)
    height, width = drawn.size
    small = folder / "val" / "00.png"
    large = tmp_path / "large.png"
    with Image.open(small) as picture:
        picture.resize((3 * width, 3 * height), Image.Resampling.NEAREST).save(large)
    one, other = predictor(small, 5), predictor(large, 5)
    assert len(one.boxes) == len(one.classes) == len(one.probabilities) <= 5
    assert all(
        0 <= left <= right <= width and 0 <= top <= bottom <= height for left, top, right, bottom in one.boxes
    )
    assert one.classes[0] == other.classes[0]  # scaled up and down again pixels differ a little
    assert other.boxes[0] == pytest.approx([3 * side for side in one.boxes[0]], abs=9)
    (written,) = write_masks(predictor, [large], tmp_path / "out")
    with Image.open(written) as picture:
        assert picture.size == (3 * width, 3 * height)
    assert json.loads(json.dumps(one.as_dict()))["boxes"] == [list(box) for box in one.boxes]


def test_doctor_knows_boxes(folder, runs, tmp_path):
    alone, _, _ = runs
    weights = str(alone.path / "student.safetensors")
    found = doctor(config_of(folder, tmp_path / "no", **{"teacher.weights": weights}), quiet=True)
    assert not [f for f in found["findings"] if f["status"] == "error"]
    texts = {f["check"]: f["text"] for f in found["findings"]}
    assert "boxes, 2 classes" in texts["data"]
    assert "AP50" in texts["teacher"]
    assert "the student's own boxes" in texts["table"]


def test_the_page_shows_boxes_of_everybody(runs):
    alone, student, _ = runs
    page = write_run_report(student.path, alone.path).read_text(encoding="utf-8")
    for text in (
        "AP50",
        "AP75",
        "What the teacher says",
        "What the student alone says",
        "What the student says",
    ):
        assert text in page, text
    assert page.count('class="example"') == 6
    assert "top-1" not in page
    assert "Black is ignored" not in page


@pytest.mark.parametrize("rows", [[[0, 0, 5]], [[9, 0, 5, 5, 0]], [[0, 0, 5, 5, 2]], [["a", 0, 5, 5, 1]]])
def test_damaged_boxes_are_one_line(runs, tmp_path, rows):
    _, student, _ = runs
    content = read_json(student.path / "examples.json")
    content["images"][0]["truth"] = rows
    for name in ("result.json", "metrics.jsonl", "config.yaml"):
        (tmp_path / name).write_bytes((student.path / name).read_bytes())
    (tmp_path / "examples.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"examples\.json must") as error:
        write_run_report(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_study_is_judged_by_the_score_it_names(folder, runs, tmp_path):
    alone, _, _ = runs
    changes = {
        "teacher.weights": str(alone.path / "student.safetensors"), "train.epochs": 1, "data.limit": 6, "data.val": 0.0,
        "losses": [{"name": "ce"}], "gradients.align": "none",
    }  # fmt: skip
    arm = {"name": "boxes", "losses": [{"name": "ce"}, {"name": "kd"}]}
    plan = {"methods": [arm], "seeds": [0], "metric": "test/ap50"}
    study = us.study(config_of(folder, tmp_path / "study", study=plan, **changes), quiet=True)
    assert study.table["metric"] == "test/ap50"
    assert [row["name"] for row in study.table["arms"]] == ["teacher", "student alone", "boxes"]
    assert all(0 <= run["test/ap50"] <= 100 for row in study.table["arms"] for run in row["runs"])
    page = (study.path / "report.html").read_text(encoding="utf-8")
    assert "Test AP50, %" in page
    assert "Test average precision by class in percent" in page


def test_the_weights_are_exported_and_nothing_else(runs, tmp_path):
    _, student, _ = runs
    done = us.export(student.path, ["all"], tmp_path / "export", quiet=True)
    assert list(done.files) == ["safetensors"]
    assert load_predictor(done.files["safetensors"]).detects
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: object-detection" in card
    assert f"Test AP {student.metrics['last']['test/ap']:.2f}%" in card
    for kind in ("onnx", "pt2", "int8"):
        with pytest.raises(ValueError, match="a detector must be exported to safetensors") as error:
            us.export(student.path, [kind], tmp_path / "export", quiet=True)
        assert "\n" not in str(error.value)


BAD = [
    ({"student.model": "cnn_tiny", "student.options": {}}, r"must both find objects or neither"),
    (
        {"student.model": "cnn_tiny", "student.options": {}, "teacher": None, "losses": [{"name": "ce"}],
         "gradients.align": "none"},
        r"student.model must suit the data, got cnn_tiny, which classifies the image, for coco with boxes",
    ),
    ({"data.augment": {"name": "resized_crop"}}, r"data.augment must be \{name: pad_crop, pad: 0\}"),
    ({"data.augment": {"name": "pad_crop", "pad": 4}}, r"data.augment must be \{name: pad_crop, pad: 0\}"),
    ({"train.compile": True, "gradients.align": "none"}, r"train.compile must be off where objects are found"),
    ({"teacher.shard": True}, r"teacher.shard must be off where objects are found"),
    ({"train.shard": True}, r"train.shard must be off where objects are found"),
    ({"data.balance": 1.0}, r"data.balance must be left out for images with boxes"),
    ({"losses": [{"name": "crd"}]}, r"term 'crd' must read each proposal's logits or feature"),
    ({"losses": [{"name": "simkd"}]}, r"term 'simkd' must read each proposal's logits or feature"),
    ({"losses": [{"name": "dino", "class_balanced": True}]}, r"term 'dino' must read each proposal's"),
    ({"teacher.table": "somewhere"}, r"teacher.table must be off where the teacher scores the student's own boxes"),
    ({"student.taps": {"stage_1": "backbone"}}, r"taps must be left out for a detector"),
    ({"student.options": {"anchors": [8]}}, r"options.anchors must be five lists"),
    ({"teacher.mean": [0.5] * 3, "teacher.std": [0.2] * 3}, r"must get the student's images and classes"),
    ({"data.test": "train"}, r"data.train and data.test must be two splits"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "match"), BAD, ids=[next(iter(changes)) for changes, _ in BAD])
def test_a_wrong_config_is_one_line_and_leaves_nothing_behind(folder, tmp_path, changes, match):
    config = config_of(folder, tmp_path / "run")
    verb = us.train if "teacher" in changes else us.distill
    with pytest.raises(ValueError, match=match) as error:
        verb(config, quiet=True, **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_boxes_may_be_left_as_they_are(folder, tmp_path):
    """``flip`` alone leaves ``pad`` open, which is 0 here, also in the config that is written down."""
    config = config_of(folder, tmp_path / "run", **{"data.augment": {"flip": False}})
    built = build.build(config, torch.device("cpu"))
    built.distiller.close()
    assert (built.config.data.augment.pad, built.config.data.augment.flip) == (0, False)
    assert build.augmentation(built.config.data, built.data).num_views == 1


def test_objects_are_not_for_labels_of_images(digits_config):
    digits_config["student"] = {"model": "frcnn_tiny"}
    digits_config["losses"], digits_config["teacher"] = [{"name": "ce"}], None
    with pytest.raises(ValueError, match="which finds objects, for digits with a label an image"):
        us.train(digits_config, quiet=True)
    digits_config["student"] = {"model": "cnn_tiny"}
    digits_config["teacher"] = {"model": "cnn_small"}
    digits_config["losses"] = [{"name": "ce"}, {"name": "fgfi"}]
    with pytest.raises(ValueError, match="term 'fgfi' must be of a run that finds objects"):
        us.distill(digits_config, quiet=True)


def test_the_command_line_ends_with_status_2_on_a_broken_file(folder, tmp_path):
    (tmp_path / "train.json").write_text("{")
    (tmp_path / "c.yaml").write_text(config_of(tmp_path, tmp_path / "run").yaml())
    command = [sys.executable, "-m", "understudy", "train", str(tmp_path / "c.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("understudy: ")
    assert "train.json must be JSON" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_analysis_that_needs_vectors_says_so(runs):
    _, student, _ = runs
    with pytest.raises(ValueError, match="gives each image one class, got one of detection"):
        analyze(student.path)
