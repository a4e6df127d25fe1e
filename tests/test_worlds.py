"""A teacher from another world in whole runs: its own images, its own classes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import understudy as us
from understudy.build import build
from understudy.config import load_config
from understudy.models import Translated, create_model
from understudy.models.published import published
from understudy.run import evaluate


@pytest.fixture
def trained(digits_config, tmp_path):
    """A teacher trained on digits at a normalisation of its own."""
    given = {
        "data.mean": [0.1],
        "data.std": [0.7],
        "train.epochs": 25,
        "data.limit": None,
        "train.ema": None,
        "output": str(tmp_path / "teacher"),
    }
    run = us.train(digits_config | {"losses": [{"name": "ce"}]}, quiet=True, **given)
    return run.path / "student.safetensors"


def built(config, **changes):
    return build(load_config(config, changes), torch.device("cpu"))


def test_a_runs_weights_bring_their_normalisation(digits_config, trained):
    changes = {"teacher.model": "cnn_tiny", "teacher.weights": str(trained)}
    job = built(digits_config, **changes)
    assert job.config.teacher is not None
    assert (job.config.teacher.mean, job.config.teacher.std) == ([0.1], [0.7])
    assert "teacher gets grey images of 8×8, mean (0.1), std (0.7)" in job.notes
    own = us.evaluate(trained.parent, quiet=True)["test/acc1"]
    assert own > 80
    theirs = evaluate(job.config, quiet=True)["teacher/acc1"]
    assert abs(theirs - own) <= 0.4  # of 500 images two may tip by rounding


def test_the_same_world_is_not_translated(digits_config):
    job = built(digits_config)
    assert not isinstance(job.distiller.guides.teachers["teacher"].module, Translated)
    assert job.config.teacher is not None
    assert job.config.teacher.mean is None


def test_a_run_with_larger_coloured_teacher_and_merged_classes_resumes_from_its_config(
    digits_config, tmp_path
):
    teacher = {
        "model": "resnet8",
        "image_size": 32,
        "channels": "rgb",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "classes": {"map": {str(c): [c, 10 + c] for c in range(10)}, "count": 20},
    }
    run = us.distill(digits_config | {"teacher": teacher}, quiet=True, **{"train.epochs": 1})
    again = us.distill(run.path / "config.yaml", quiet=True, output=str(tmp_path / "again"))
    assert again.config.teacher == run.config.teacher
    assert run.config.teacher is not None
    assert run.config.teacher.image_size == (32, 32)
    states = [r.student.state_dict() for r in (run, again)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_teacher_whose_classes_are_in_another_order_is_refused_until_mapped(
    digits_config, tmp_path, trained
):
    from safetensors.torch import load_file, save_file

    names = [str(c) for c in (1, 0, 2, 3, 4, 5, 6, 7, 8, 9)]
    about = {
        "mean": "[0.1]",
        "std": "[0.7]",
        "image_size": "[8, 8]",
        "classes": json.dumps([f"d{n}" for n in names]),
    }
    save_file(load_file(trained), tmp_path / "swapped.safetensors", metadata=about)
    changes = {"teacher.model": "cnn_tiny", "teacher.weights": str(tmp_path / "swapped.safetensors")}
    folder = tmp_path / "images"
    for c in range(10):
        (folder / f"d{c}").mkdir(parents=True)
        from PIL import Image

        Image.new("L", (8, 8), 20 * c).save(folder / f"d{c}" / "a.png")
    data = {"name": "imagefolder", "train": str(folder), "channels": 1}
    given = {**digits_config, "data": data}
    with pytest.raises(ValueError, match=r"got 'd1' and 'd0' as class 0\. Set teacher\.classes"):
        built(given, **changes)
    job = built(given, **changes, **{"teacher.classes": {"map": "name"}})
    teacher = job.distiller.guides.teachers["teacher"].module
    images = torch.zeros(2, 1, 8, 8)
    inner = teacher.net(teacher.translate_images(images))
    assert torch.equal(teacher(images), inner[:, [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]])


def test_what_is_missing_in_a_map_is_one_line(digits_config):
    with pytest.raises(
        ValueError, match=r"teacher\.classes\.map must name every class of the data, got nothing for '0'"
    ):
        built(digits_config, **{"teacher.classes": {"map": {"1": 3}, "count": 20}})
    with pytest.raises(ValueError, match=r"teacher\.classes\.count must say"):
        built(digits_config, **{"teacher.classes": {"map": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}})
    with pytest.raises(ValueError, match=r"teacher\.mean and teacher\.std must be given together"):
        built(digits_config, **{"teacher.mean": [0.5]})
    with pytest.raises(
        ValueError,
        match=r"teacher\.mean and teacher\.std must have a number for each of 3 channels, got 1 and 1",
    ):
        built(digits_config, **{"teacher.mean": [0.5], "teacher.std": [0.5], "teacher.channels": "rgb"})


def test_a_classifier_is_not_transplanted_from_another_world(digits_config):
    given = {**digits_config, "losses": [{"name": "simkd"}], "gradients": {"align": "none"}}
    with pytest.raises(ValueError, match="deploys the teacher's classifier"):
        built(given, **{"teacher.mean": [0.5], "teacher.std": [0.5], "teacher.image_size": 16})
    assert built(given, **{"teacher.mean": [0.5], "teacher.std": [0.5]}).distiller.replacing is not None


def test_srrl_deploys_nothing_so_either_network_may_see_other_images(digits_config):
    given = {**digits_config, "losses": [{"name": "ce"}, {"name": "srrl"}], "gradients": {"align": "none"}}
    ours = built(
        given,
        **{"student.image_size": 16, "teacher.mean": [0.5], "teacher.std": [0.5], "teacher.image_size": 16},
    )
    assert "srrl" in ours.distiller.heads


def test_peers_by_name_see_the_images_as_they_are(digits_config):
    given = {
        **digits_config,
        "losses": [{"name": "ce"}, {"name": "dml", "peers": ["cnn_small", "same"]}],
        "teacher": None,
    }
    ours = built(given, **{"student.channels": "rgb"}).distiller
    out = ours(torch.randn(4, 1, 8, 8), torch.arange(4))
    assert torch.isfinite(out.loss)


def test_what_torchvision_publishes():
    about = published("torchvision/resnet18", pretrained=True)
    assert (about.mean, about.image_size, about.num_classes) == ((0.485, 0.456, 0.406), (224, 224), 1000)
    assert about.classes is not None
    assert about.classes[0] == "tench"
    assert published("torchvision/resnet18").mean is None


def test_what_timm_publishes():
    pytest.importorskip("timm", reason="timm is not installed")
    about = published("timm/vit_tiny_patch16_224", pretrained=True)
    assert (about.mean, about.image_size, about.num_classes) == ((0.5, 0.5, 0.5), (224, 224), 1000)


def test_what_a_hugging_face_folder_publishes(tmp_path):
    (tmp_path / "config.json").write_text('{"id2label": {"1": "dog", "0": "cat"}}')
    about = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 48, "width": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    found = published(f"hf/{tmp_path}", pretrained=True)
    assert (found.mean, found.std, found.image_size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (48, 64))
    assert found.classes == ("cat", "dog")


def test_options_of_a_network_reach_it_and_its_predictor(digits_config, monkeypatch):
    import sys
    import types

    def make(num_classes, in_channels=3, width=4):
        net = nn.Sequential(
            nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        return net.append(nn.Linear(width, num_classes))

    module = types.ModuleType("wide_nets")
    module.make = make
    monkeypatch.setitem(sys.modules, "wide_nets", module)
    student = {"model": "wide_nets:make", "options": {"width": 12}}
    run = us.train(digits_config | {"student": student}, quiet=True, **{"train.epochs": 1})
    from understudy.predict import load_predictor

    assert load_predictor(run.path).module[0].out_channels == 12
    assert create_model("wide_nets:make", num_classes=3, width=7)[0].out_channels == 7


# A student with images of its own

OWN = {
    "model": "cnn_tiny",
    "image_size": 16,
    "channels": "bgr",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
}


@pytest.fixture
def photos(tmp_path):
    """Coloured images of two classes as files; class and image differ in colour."""
    for part, name, base in (
        (part, *kind) for part in ("train", "test") for kind in (("a", (200, 40, 10)), ("b", (30, 60, 220)))
    ):
        (tmp_path / part / name).mkdir(parents=True)
        for k in range(6):
            noise = np.random.default_rng(k + 10 * len(part)).integers(-20, 20, (24, 24, 3))
            pixels = np.clip(np.array(base) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / name / f"{k}.png")
    return tmp_path / "test"


@pytest.fixture
def with_own(digits_config, photos):
    return digits_config | {
        "data": {"name": "imagefolder", "train": str(photos.parent / "train"), "test": str(photos)},
        "teacher": {"model": "cnn_small"},
        "student": OWN,
        "train": digits_config["train"] | {"epochs": 2, "batch_size": 4, "ema": None},
    }


def test_a_student_gets_its_own_images_and_the_teacher_the_same_view(with_own):
    job = built(with_own)
    student, data = job.distiller.student, job.data
    assert isinstance(student, Translated)
    assert job.config.student.image_size == (16, 16)
    assert [line for line in job.notes if line.startswith("student gets bgr images of 16×16")]
    pixels = data.train.images[:2].float() / 255  # (2, 3, 24, 24)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    small = nn.functional.interpolate(pixels.double(), (16, 16), mode="bilinear", antialias=True).flip(1)
    own_mean, own_std = (torch.tensor(OWN[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = (small - own_mean) / own_std
    given = student.translate_images((pixels - mean) / std)
    torch.testing.assert_close(given.double(), expected, rtol=1e-4, atol=1e-4)
    shown = job.distiller.setup.student.shapes["stage_1"]
    assert shown[1:] == (16, 16)
    assert not isinstance(job.distiller.guides.networks["teacher"].module, Translated)


def test_evaluate_predict_and_a_config_agree_on_what_is_deployed(with_own, photos, tmp_path):
    run = us.distill(with_own, quiet=True)
    test = run.metrics["last"]["test/acc1"]
    assert evaluate(run.path, quiet=True)["test/acc1"] == test
    files = sorted(photos.rglob("*.png"))
    answers = us.predict(run.path, files)
    right = [answer.classes[0] == file.parent.name for answer, file in zip(answers, files, strict=True)]
    assert 100 * sum(right) / len(right) == pytest.approx(test)
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(f)).transpose(2, 0, 1) for f in files])).float()
    data = run.config.data
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    with torch.no_grad():
        expected = run.student((pixels / 255 - mean) / std).softmax(dim=1).max(dim=1).values
    torch.testing.assert_close(
        torch.tensor([a.probabilities[0] for a in answers]), expected, rtol=1e-5, atol=1e-6
    )
    again = us.distill(run.path / "config.yaml", quiet=True, output=str(tmp_path / "again"))
    first, second = (load_file(r.path / "student.safetensors") for r in (run, again))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_its_weights_are_the_plain_network_s_and_make_a_teacher(with_own, tmp_path):
    run = us.distill(with_own, quiet=True)
    weights = run.path / "student.safetensors"
    plain = create_model("cnn_tiny", num_classes=2, in_channels=3, weights=str(weights))
    assert set(load_file(weights)) == set(plain.state_dict())
    teacher = {"model": "cnn_tiny", "weights": str(weights)}
    job = built(with_own, teacher=teacher, student={"model": "cnn_tiny"})
    seen = job.config.teacher
    assert (seen.image_size, seen.channels) == ((16, 16), "bgr")
    assert (seen.mean, seen.std) == (OWN["mean"], OWN["std"])
    answered = evaluate(job.config, quiet=True)["teacher/acc1"]
    assert answered == run.metrics["last"]["test/acc1"]


@pytest.mark.slow
def test_the_exports_take_the_images_of_the_data(with_own, photos):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra onnx)")
    import onnxruntime

    run = us.distill(with_own, quiet=True)
    done = us.export(run.path, quiet=True)
    assert done.report["onnx"]["agreement"] == 100.0
    session = onnxruntime.InferenceSession(done.files["onnx"].read_bytes())
    assert session.get_inputs()[0].shape[1:] == [3, 24, 24]
    assert json.loads(session.get_modelmeta().custom_metadata_map["image_size"]) == [24, 24]
    program = torch.export.load(done.files["pt2"]).module()
    images = torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(program(images), run.student(images), rtol=1e-4, atol=1e-5)
    assert "as bgr, scaled to 16 × 16 pixels" in (done.folder / "README.md").read_text()
    script = Path(__file__).parents[1] / "examples" / "serve.py"
    files = sorted(photos.rglob("*.png"))[::5]
    for kind in ("onnx", "int8"):
        served = subprocess.run(
            [sys.executable, script, done.files[kind], *files], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert len(served) == len(files)
        if kind == "onnx":
            ours = us.predict(run.path, files)
            assert [line.split(": ")[1].split()[0] for line in served] == [
                answer.classes[0] for answer in ours
            ]


def test_a_grey_image_may_be_shown_in_three_channels(digits_config):
    run = us.train(digits_config | {"student": {"model": "cnn_tiny", "channels": "rgb"}}, quiet=True)
    assert run.config.student.mean == run.config.data.mean * 3
    assert load_file(run.path / "student.safetensors")["stem.0.weight"].shape[1] == 3
    assert us.evaluate(run.path, quiet=True)["test/acc1"] == run.metrics["last"]["test/acc1"]


def test_a_teacher_that_a_study_trains_is_trained_on_its_own_images(digits_config, tmp_path):
    teacher = {"model": "cnn_small", "image_size": 12}
    config = digits_config | {"teacher": teacher, "study": {"methods": ["kd"], "seeds": [0]}}
    done = us.study(config, quiet=True, **{"train.epochs": 1, "output": str(tmp_path / "study")})
    own = load_config(done.path / "teacher" / "config.yaml").student
    assert own.image_size == (12, 12)
    taught = load_config(done.path / "kd" / "seed-0" / "config.yaml").teacher
    assert (taught.image_size, taught.mean) == (own.image_size, own.mean)


@pytest.mark.parametrize(
    ("student", "losses", "message"),
    [
        ({"mean": [0.5]}, None, r"student\.mean and student\.std must be given together"),
        (
            {"mean": [0.5], "std": [0.5], "channels": "rgb"},
            None,
            r"student\.mean .* each of 3 channels, got 1 and 1",
        ),
        ({"image_size": 16}, [{"name": "simkd"}], "the student must take the data's images as they are"),
    ],
)
def test_what_a_student_cannot_have_is_one_line(digits_config, student, losses, message):
    given = digits_config | {"losses": losses or digits_config["losses"], "gradients": {"align": "none"}}
    with pytest.raises(ValueError, match=message):
        built(given | {"student": {"model": "cnn_tiny", **student}})
