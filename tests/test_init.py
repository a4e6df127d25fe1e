"""What `init` writes: valid whatever the answers, and fit for the images that are there."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from understudy.config import load_config
from understudy.init import DEFAULTS, suggested_size, write_config


def images(folder, sizes):
    for i, (width, height) in enumerate(sizes):
        place = folder / f"class {i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(place / f"IMG {i}.JPG")
    return folder


def written(tmp_path, **answers):
    path = tmp_path / "my config.yaml"
    write_config(path, answers, ask=False)
    return load_config(path), path.read_text("utf-8")


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(32, 32)] * 4, None),
        ([(64, 48)] * 4, None),
        ([(640, 480)] * 4, 224),
        ([(640, 480), (480, 640), (90, 120)], 224),
        ([(90, 80), (75, 70), (60, 61)], 64),
        ([(20, 10), (10, 20)], 32),
    ],
)
def test_the_size_of_photos_follows_from_a_look_at_them(tmp_path, sizes, side):
    assert suggested_size("imagefolder", str(images(tmp_path / "train", sizes))) == side


def test_a_parquet_file_is_looked_into_and_what_is_none_is_left_to_the_reader(tmp_path):
    folder = images(tmp_path / "train", [(40, 48), (64, 80)])
    content = [{"bytes": path.read_bytes(), "path": None} for path in folder.rglob("*.JPG")]
    column = pa.array(content, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": column, "label": [0, 1]}), tmp_path / "a.parquet")
    assert suggested_size("parquet", str(tmp_path / "a.parquet")) == 48  # between 40 and 64, a multiple of 8
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    (folder / "class 0" / "broken.jpg").write_bytes(b"nothing")
    assert suggested_size("parquet", str(tmp_path / "b.parquet")) is None
    assert suggested_size("imagefolder", str(folder)) == 48
    assert suggested_size("imagefolder", str(tmp_path / "none")) is None


def test_photos_get_networks_for_photos_and_small_images_those_for_small_ones(tmp_path):
    large = images(tmp_path / "large", [(640, 480), (480, 640)])
    config, text = written(tmp_path, data="imagefolder", train=str(large), test=str(large))
    assert (config.data.image_size, config.student.model) == (224, "torchvision/resnet18")
    assert "student.pretrained=true" in text
    (tmp_path / "my config.yaml").unlink()
    small = images(tmp_path / "small", [(32, 32)])
    config, text = written(tmp_path, data="imagefolder", train=str(small), test=str(small))
    assert (config.data.image_size, config.student.model) == (None, "resnet8x4")
    assert "# image_size: 224" in text


def test_names_that_yaml_or_a_shell_would_read_otherwise_are_quoted(tmp_path):
    train = images(tmp_path / "my: pets #1 – öl", [(32, 32)])
    config, text = written(tmp_path, data="imagefolder", train=str(train), test="yes", weights="a b.pth")
    assert (config.data.train, config.data.test) == (str(train), "yes")
    assert config.teacher is not None
    assert config.teacher.weights == "a b.pth"
    assert f"understudy distill '{tmp_path}/my config.yaml'" in text


def test_the_commands_train_a_teacher_only_if_there_is_none(tmp_path):
    _, text = written(tmp_path, data="digits")
    assert "understudy train" in text
    (tmp_path / "my config.yaml").unlink()
    _, text = written(tmp_path, data="digits", weights="teacher.pth")
    assert "understudy train" not in text
    assert "understudy doctor" in text


def test_training_images_alone_are_enough(tmp_path):
    config, text = written(tmp_path, data="imagefolder", train="a")
    assert (config.data.train, config.data.test, config.data.val) == ("a", None, 0.1)
    assert "# test: path/to/test" in text


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"data": "digits", "train": "a"}, r"train must go with a data set that takes it, got data digits"),
        ({"data": "imagefolder", "root": "a"}, r"root must go with a data set"),
        ({"data": "coco"}, r"one class per image, got coco. .*docs/detection.md"),
        ({"data": "camvid"}, r"docs/segmentation.md"),
        ({"data": "imagefoldr"}, r"Did you mean 'imagefolder'"),
        ({"data": "digits", "method": "dhkdd"}, r"Did you mean 'dhkd'"),
        ({"data": "digits", "image_size": 3}, r"data.image_size must be a number from 8 up"),
        ({"data": "digits", "epochs": 0}, r"train.epochs .* got 0"),
    ],
)
def test_a_wrong_answer_is_one_line_and_writes_nothing(tmp_path, answers, message):
    with pytest.raises(ValueError, match=message) as error:
        written(tmp_path, **answers)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_data_sets_with_a_place_of_their_own_may_be_given_another(tmp_path):
    config, text = written(tmp_path, data="cifar10", root="/data/cifar")
    assert config.data.root == "/data/cifar"
    assert "train: path" not in text


def test_questions_are_asked_in_order_and_an_empty_answer_is_the_default(tmp_path, monkeypatch):
    asked = []
    answers = {"epochs": 3, "image_size": 0, "test": "none"}

    def prompt(question, default, **_):
        asked.append(question)
        key = next(key for key in DEFAULTS if key not in seen)
        seen.append(key)
        return answers.get(key, default)

    seen = ["root"]  # of an image folder nobody asks for it
    monkeypatch.setattr("typer.prompt", prompt)
    write_config(tmp_path / "c.yaml", {}, ask=True)
    config = load_config(tmp_path / "c.yaml")
    assert [*seen[1:]] == [key for key in DEFAULTS if key != "root"]
    assert "imagefolder" in asked[0]
    assert "coco" not in asked[0]
    assert (config.train.epochs, config.data.image_size, config.data.test) == (3, None, None)
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["data"]["train"] == "path/to/train"
