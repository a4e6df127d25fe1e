"""Tables whose images have several classes: what is read, and what is refused."""

import json

import pytest
import torch
from PIL import Image

from understudy.data import MultiLabelSet, load

NAMES = [f"images/{i}.png" for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def csv_of(folder, cells, name="train.csv", head="image,label"):
    names = NAMES if name == "train.csv" else NAMES[::-1]  # no image is in two tables
    rows = [f"{path},{cell}" for path, cell in zip(names, cells, strict=False)]
    (folder / name).write_text("\n".join([head, *rows]) + "\n")
    return str(folder / name)


def json_of(folder, labels, name="train.json"):
    rows = [{"image": path, "label": label} for path, label in zip(NAMES, labels, strict=False)]
    (folder / name).write_text(json.dumps(rows))
    return str(folder / name)


ROWS = [[1, 0, 1], [0, 1, 0], [0, 0, 0], [-1, -1, -1]]


def test_names_are_joined_by_a_separator_a_lone_one_means_none_and_nothing_means_not_known(folder):
    train = load("manifest", train=csv_of(folder, ["a;c", " b", ";", ""]), label_separator=";").train
    assert isinstance(train, MultiLabelSet)
    assert train.classes == ("a", "b", "c")
    assert train.targets.tolist() == ROWS
    assert train.targets.dtype == torch.int8


def test_lists_need_no_setting(folder):
    train = load("manifest", train=json_of(folder, [["c", "a"], ["b"], [], None])).train
    assert (train.classes, train.targets.tolist()) == (("a", "b", "c"), ROWS)


@pytest.mark.parametrize("cells", [[[0, 2, 10], [2]], [["0", "2.0", "10"], ["02"]]])
def test_lists_of_numbers_are_class_numbers(folder, cells):
    train = load("manifest", train=json_of(folder, cells)).train
    assert train.classes == tuple(map(str, range(11)))
    assert [row.nonzero().flatten().tolist() for row in train.targets] == [[0, 2, 10], [2]]


def test_what_is_held_out_must_have_a_class(folder):
    table = json_of(folder, [["cat", "dog"], [], [], []])

    def held_out(seed):
        try:
            return load("manifest", train=table, val=0.25, split_seed=seed).val.targets.tolist()
        except ValueError as error:
            return str(error)

    found = [held_out(seed) for seed in range(20)]
    refused = [text for text in found if isinstance(text, str)]
    assert 0 < len(refused) < 20
    assert all("must hold out an image that has a class, got none among 1." in text for text in refused)
    assert all(other == [[1, 1]] for other in found if not isinstance(other, str))


def test_columns_of_1_and_0(folder):
    cells = ["1,0,yes", "0,1.0,False", "0,0,0", "-1,,"]
    train = load(
        "manifest", train=csv_of(folder, cells, head="image,a,b,c"), label_columns=["a", "b", "c"]
    ).train
    assert (train.classes, train.targets.tolist()) == (("a", "b", "c"), ROWS)


def test_the_test_table_has_the_classes_of_train(folder):
    options = {"train": csv_of(folder, ["a", "b"]), "label_separator": ";"}
    assert load("manifest", test=csv_of(folder, ["b"], "t.csv"), **options).test.targets.tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"among the classes .* got 'd' in row 2"):
        load("manifest", test=csv_of(folder, ["a", "d"], "t.csv"), **options)
    with pytest.raises(ValueError, match="known in part at least, got none for image 1, the first of 1"):
        load("manifest", test=csv_of(folder, ["a", ""], "t.csv"), **options)


def test_images_of_which_nothing_is_known_are_not_held_out(folder):
    splits = load("manifest", train=csv_of(folder, ["a", "b", "a;b", ""]), label_separator=";", val=0.67)
    assert len(splits.val) == 2
    assert 3 in splits.train.index.tolist()


@pytest.mark.parametrize(
    ("cells", "head", "options", "message"),
    [
        (["a;b"], "image,label", {"label_separator": ";", "label_columns": ["a", "b"]}, "must not be given together"),
        ([";", ""], "image,label", {"label_separator": ";"}, "must have a class in some image"),
        (["1,2"], "image,a,b", {"label_columns": ["a", "b"]}, "row 1 must hold 1, 0 or nothing .* in 'b', got '2'"),
        (["0,0"], "image,a,b", {"label_columns": ["a", "b"]}, "must have a class in some image, got none in all 1"),
        (["1,0"], "image,a,b", {"label_columns": ["a", "c"]}, "must have a column 'c', got image, a, b"),
        (["1,0"], "image,a,b", {"label_columns": ["a", "a"]}, "name each column once"),
    ],
)  # fmt: skip
def test_wrong_tables_are_one_line(folder, cells, head, options, message):
    with pytest.raises(ValueError, match=message) as error:
        load("manifest", train=csv_of(folder, cells, head=head), **options)
    assert "\n" not in str(error.value)


def test_a_text_among_lists_is_one_line(folder):
    with pytest.raises(
        ValueError, match="train row 2 must hold a list of classes in 'label' like other rows, got 'b'"
    ):
        load("manifest", train=json_of(folder, [["a"], "b"]))
