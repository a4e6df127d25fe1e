"""Collections of (image, label): Python data sets, torchvision's sets, Hugging Face's datasets, ImageNet's layout."""

import io
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.data import load
from understudy.data.items import read_items

COLOURS = [(10, 20, 30), (40, 50, 60), (70, 80, 90), (1, 2, 3)]


def pil(colour, size=8):
    return Image.new("RGB", (size, size), colour)


def encoded(colour):
    file = io.BytesIO()
    pil(colour).save(file, "PNG")
    return file.getvalue()


def test_every_kind_of_image_gives_the_same_pixels(tmp_path):
    pil(COLOURS[0]).save(tmp_path / "a.png")
    array = np.asarray(pil(COLOURS[0]))
    kinds = [
        pil(COLOURS[0]),
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        encoded(COLOURS[0]),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ]
    images = read_items([(image, np.int64(i % 2)) for i, image in enumerate(kinds)], "kinds").images
    assert (images == torch.tensor(COLOURS[0]).view(3, 1, 1)).all()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (pil(COLOURS[0]), r"x item 1 must be a pair \(image, label\), got Image"),
        ((pil(COLOURS[0]), "cat"), "must have a class number for a label, got 'cat'"),
        ((torch.zeros(3, 8, 8), 0), "must hold pixels from 0 to 255 as uint8, got float32"),
        ((3, 0), r"must be an image of Pillow, a tensor \(C, H, W\), an array, bytes or a path, got int"),
        (
            (np.zeros((3, 8, 8), np.uint8), 0),
            r"got \(height, width, channels\) \(3, 8, 8\)\. Move the channels",
        ),
        ((torch.zeros(8, 8, 3, dtype=torch.uint8), 0), r"channels\) \(8, 3, 8\)\. Move the channels"),
        ((torch.zeros(8, 8, dtype=torch.uint8), 0), r"got Tensor \(8, 8\)"),
        ((pil(COLOURS[0]), -1), r"labels of x must lie in \[0, 1\), got -1"),
    ],
)
def test_an_item_that_cannot_be_is_named(item, message):
    with pytest.raises(ValueError, match=message):
        read_items([(pil(COLOURS[0]), 0), item], "x")


class Pairs:
    classes = ("red", "blue")

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return pil(COLOURS[i]), i % 2


class Others(Pairs):
    classes = ("blue", "red")


def fails():
    raise RuntimeError("Dataset not found. You can use download=True to download it")


@pytest.fixture
def users(monkeypatch):
    module = types.ModuleType("users_data")
    module.both = lambda: (Pairs(4), Pairs(2))
    module.one = lambda root="": Pairs(4)
    module.none = lambda: None
    module.others = lambda: (Pairs(4), Others(2))
    module.fails = fails
    module.subset = lambda: (torch.utils.data.Subset(Pairs(4), range(4)), Pairs(2))
    monkeypatch.setitem(sys.modules, "users_data", module)


def test_a_function_of_the_users_is_a_data_set(users):
    splits = load("users_data:both")
    assert (len(splits.train), len(splits.test), splits.classes) == (4, 2, ("red", "blue"))
    assert load("users_data:one", root="x").test is None
    assert load("users_data:subset").classes == (
        "0",
        "1",
    )  # without names on one side there is nothing to compare


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "users_data:nine",
            "must be a function that can be called, got: module 'users_data' has no attribute",
        ),
        ("no_such_module:x", "No module named"),
        ("users_data:fails", "must be a function that can be called, got: Dataset not found"),
        (
            "users_data:others",
            r"train and test of users_data:others must have the same \.classes, got others",
        ),
        ("users_data:none", "must return a collection with a length, or a pair of them, got NoneType"),
    ],
)
def test_a_function_that_gives_no_data_is_named(users, name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


@pytest.mark.parametrize("name", ["stl10", "oxford_pets", "flowers102", "food101"])
def test_public_sets_are_not_fetched_unless_asked(name, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(
        ValueError, match=rf"must hold {name} as torchvision keeps it.*download=true"
    ) as caught:
        load(name, root=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_stl10_is_read_from_torchvisions_files(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(f"c{i}" for i in range(10)) + "\n")
    for part, count in (("train", 3), ("test", 2)):
        pixels = np.arange(count * 3 * 96 * 96, dtype=np.uint64).astype(np.uint8)
        pixels.tofile(folder / f"{part}_X.bin")
        (np.arange(count, dtype=np.uint8) + 1).tofile(folder / f"{part}_y.bin")
    (folder / "unlabeled_X.bin").write_bytes(b"")
    import torchvision

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
        splits = load("stl10", root=str(tmp_path), image_size=48)
    assert (len(splits.train), len(splits.test), splits.image_size) == (3, 2, (48, 48))
    assert splits.train.targets.tolist() == [0, 1, 2]
    assert splits.classes[0] == "c0"


def test_imagenets_layout(tmp_path):
    for part, count in (("train", 2), ("val", 1)):
        for name in ("n01", "n02"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pil(COLOURS[i], 20).save(tmp_path / part / name / f"{i}.JPEG", "JPEG")
    splits = load("imagenet", root=str(tmp_path), image_size=16)
    assert (len(splits.train), len(splits.test), splits.classes) == (4, 2, ("n01", "n02"))


datasets = pytest.importorskip("datasets", reason="datasets is not installed")


@pytest.fixture
def saved(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )

    def split(count):
        rows = {"image": [pil(COLOURS[i]) for i in range(count)], "label": [i % 2 for i in range(count)]}
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict({"train": split(4), "validation": split(2)}).save_to_disk(str(tmp_path / "set"))
    return str(tmp_path / "set")


def test_a_saved_hugging_face_set_is_read(saved):
    splits = load("hf", root=saved)
    assert (splits.classes, splits.train.targets.tolist(), len(splits.test)) == (
        ("cat", "dog"),
        [0, 1, 0, 1],
        2,
    )
    assert splits.train.images[:, :, 0, 0].tolist() == [list(c) for c in COLOURS]


def test_lists_of_labels_in_a_hugging_face_set_are_several_labels_an_image(tmp_path):
    label = datasets.Sequence(datasets.ClassLabel(names=["cat", "dog", "emu"]))
    features = datasets.Features({"image": datasets.Image(), "label": label})

    def split(labels):
        rows = {"image": [pil(COLOURS[i]) for i in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(rows, features=features)

    parts = {"train": split([["dog", "cat"], []]), "test": split([["emu"]])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    splits = load("hf", root=str(tmp_path / "set"))
    assert splits.classes == ("cat", "dog", "emu")
    assert splits.train.targets.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert splits.test.targets.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "trian"}, "data.train must be a split of .*got 'trian'. Choose from: train, validation"),
        (
            {"label_column": "kind"},
            "data.label_column must be a column of .*got 'kind'. Choose from: image, label",
        ),
    ],
)
def test_a_wrong_split_or_column_is_named(saved, options, message):
    with pytest.raises(ValueError, match=message):
        load("hf", root=saved, **options)


def one_split(labels, names=None, images=None):
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    rows = {"image": images or [pil(COLOURS[i % 4]) for i in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(rows, features=features)


def saved_as(folder, **splits):
    datasets.DatasetDict(splits).save_to_disk(str(folder / "set"))
    return str(folder / "set")


def test_splits_that_number_their_classes_otherwise_are_refused(tmp_path):
    root = saved_as(
        tmp_path, train=one_split([0, 1, 2], ["cat", "dog", "emu"]), test=one_split([0, 1], ["cat", "emu"])
    )
    with pytest.raises(ValueError, match=r"splits train and test of .* must number the same classes alike"):
        load("hf", root=root)


def test_a_split_is_not_train_and_test(saved, tmp_path):
    assert load("hf", root=saved, train="validation").test is None
    assert load("hf", root=saved, test=False).test is None
    with pytest.raises(ValueError, match="must be two splits, got train for both"):
        load("hf", root=saved, test="train")


@pytest.mark.parametrize(
    ("labels", "got"),
    [([0, None, 1], "None in row 1"), ([0.0, 1.0, 2.0], "0.0 in row 0"), (["a", "b"], "'a' in row 0")],
)
def test_labels_that_are_no_class_numbers_are_named(tmp_path, labels, got):
    rows = {"image": [pil(COLOURS[i]) for i in range(len(labels))], "label": labels}
    root = saved_as(tmp_path, train=datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()))
    with pytest.raises(ValueError, match=f"must be class numbers in column 'label', got {got}"):
        load("hf", root=root)


def test_a_row_without_an_image_is_named(tmp_path):
    root = saved_as(tmp_path, train=one_split([0, 1], images=[pil(COLOURS[0]), None]))
    with pytest.raises(ValueError, match=r"set/train row 1 must have an image, got none"):
        load("hf", root=root)


def test_a_hub_name_is_not_fetched_unless_asked(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("the network is off in this test")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"must be a data set on this machine.*Set data\.download=true"
    ) as caught:
        load("hf", root="nobody/no-such-set")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="Check the name and the network"):
        load("hf", root="nobody/no-such-set", download=True)


def test_missing_datasets_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[hf\]'"):
        load("hf", root="x")
