"""A teacher from another world in whole runs: its own images, its own classes."""

import json

import pytest
import torch
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
    with pytest.raises(ValueError, match="a teacher of rgb images must have 3 means"):
        built(digits_config, **{"teacher.mean": [0.5], "teacher.std": [0.5], "teacher.channels": "rgb"})


def test_a_classifier_is_not_transplanted_from_another_world(digits_config):
    given = {**digits_config, "losses": [{"name": "simkd"}], "gradients": {"align": "none"}}
    with pytest.raises(ValueError, match="deploys the teacher's classifier"):
        built(given, **{"teacher.mean": [0.5], "teacher.std": [0.5], "teacher.image_size": 16})
    assert built(given, **{"teacher.mean": [0.5], "teacher.std": [0.5]}).distiller.replacing is not None


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
