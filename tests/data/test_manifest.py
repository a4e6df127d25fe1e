"""Tables of images: what is read, and what is refused."""

import json

import pytest
import torch
from PIL import Image

import understudy as us
from understudy.data import load


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(folder / f"{i}.png")
    Image.new("RGB", (8, 8)).save(tmp_path.parent / "outside.png")
    return tmp_path


def table(folder, rows, name="train.csv", columns=("image", "label")):
    path = folder / name
    if name.endswith(".csv"):
        path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    elif name.endswith(".jsonl"):
        path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows))
    else:
        path.write_text(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
    return str(path)


ROWS = [(f"images/{i}.png", "dog" if i % 2 else "cat") for i in range(6)]


@pytest.mark.parametrize("name", ["train.csv", "train.json", "train.jsonl"])
def test_a_table_gives_its_images_in_order(images, name):
    train = load("manifest", train=table(images, ROWS, name)).train
    assert train.classes == ("cat", "dog")
    assert train.targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert train.images[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]


def test_whole_numbers_are_class_numbers(images):
    train = load(
        "manifest", train=table(images, [(p, n) for (p, _), n in zip(ROWS, [2, 0, 2, 1, 0, 10], strict=True)])
    )
    assert train.train.targets.tolist() == [2, 0, 2, 1, 0, 10]
    assert train.num_classes == 11


@pytest.mark.parametrize("numbers", [["2.0", "0.0", "10.0"], ["002", "0", "10"], ["2", "0.", "010"]])
def test_numbers_as_pandas_writes_them_are_class_numbers(images, numbers):
    train = load(
        "manifest", train=table(images, [(p, n) for (p, _), n in zip(ROWS, numbers * 2, strict=True)])
    )
    assert train.train.targets.tolist() == [2, 0, 10] * 2
    assert train.train.classes == tuple(map(str, range(11)))


def test_zeros_in_front_stay_in_a_name(images):
    train = load(
        "manifest", train=table(images, [(p, "01" if i else "ab") for i, (p, _) in enumerate(ROWS)])
    ).train
    assert train.classes == ("01", "ab")


@pytest.mark.parametrize(("name", "nothing"), [("a.csv", "-1"), ("a.json", float("nan")), ("a.json", -1)])
def test_what_stands_for_no_label_is_none(images, name, nothing):
    rows = [(p, nothing if i == 1 else i % 2) for i, (p, _) in enumerate(ROWS)]
    train = load("manifest", train=table(images, rows, name)).train
    assert train.targets.tolist() == [0, -1, 0, 1, 0, 1]
    assert train.classes == ("0", "1")


def test_numbers_of_anything_but_classes_are_refused(images):
    rows = [(p, 1_700_000_000 + i) for i, (p, _) in enumerate(ROWS)]
    with pytest.raises(
        ValueError, match=r"must be class numbers from 0, got 1700000005\. Set data\.label_column"
    ):
        load("manifest", train=table(images, rows))


def test_one_table_is_not_train_and_test(images):
    path = table(images, ROWS)
    with pytest.raises(ValueError, match="must be two tables"):
        load("manifest", train=path, test=path)


def test_two_tables_share_no_image(images):
    train, test = table(images, ROWS), table(images, ROWS[3:4], "test.csv")
    with pytest.raises(ValueError, match=r"must share no image, got 1 in both, the first .*3\.png"):
        load("manifest", train=train, test=test)


@pytest.mark.parametrize(("row", "what"), [("images/0,png,cat", "more"), ("images/0.png", "fewer")])
def test_rows_of_other_cells_than_columns_are_named(images, row, what):
    path = images / "train.csv"
    path.write_text(f"image,label\nimages/1.png,dog\n{row}\n")
    with pytest.raises(ValueError, match=f"must have a cell for each column, got {what} in row 2"):
        load("manifest", train=path)


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
def test_what_is_no_end_of_a_line_ends_none(images, name):
    rows = [(path, "a\u2028b\x85c", label) for path, label in ROWS]
    path = images / name
    if name == "train.csv":
        lines = ["image,caption,label", *(",".join(row) for row in rows)]
    else:
        keys = ("image", "caption", "label")
        lines = [json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert load("manifest", train=path).train.targets.tolist() == [0, 1, 0, 1, 0, 1]


def test_columns_and_root_can_be_named(images):
    rows = [(p.removeprefix("images/"), label) for p, label in ROWS]
    path = table(images, rows, columns=("file", "kind"))
    options = {"root": str(images / "images"), "image_column": "file", "label_column": "kind"}
    assert len(load("manifest", train=path, **options).train) == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("../outside.png", "cat"), *ROWS],
            r"row 1 must name a file in .*got '\.\./outside\.png', which leads out",
        ),
        ([("images/../../outside.png", "cat"), *ROWS], "which leads out of it"),
        ([("/etc/hostname", "cat"), *ROWS], "which leads out of it"),
        ([*ROWS, ("images/none.png", "cat")], r"none\.png must be an image that can be read"),
        ([(p, "") for p, _ in ROWS], "must give some image a label"),
        ([(p, "cat") for p, _ in ROWS], "must have two classes or more, got only 'cat'"),
    ],
)
def test_rows_that_cannot_be_are_named(images, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        load("manifest", train=table(images, rows))
    assert "\n" not in str(caught.value)


def test_a_link_that_leads_out_is_refused(images):
    (images / "images" / "link.png").symlink_to(images.parent / "outside.png")
    with pytest.raises(ValueError, match="which leads out of it"):
        load("manifest", train=table(images, [("images/link.png", "cat"), *ROWS]))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("{", "a.json", "must be valid JSON"),
        ("{}", "a.json", "must hold a list of objects"),
        ("image,label\n", "a.csv", "must give some image a label"),
        (
            "file,label\nimages/0.png,cat\nimages/1.png,dog\n",
            "a.csv",
            "must have a path in column 'image', got columns",
        ),
        ("x", "a.txt", r"must be a \.csv, \.json or \.jsonl file"),
    ],
)
def test_tables_that_cannot_be_read_are_named(images, text, name, message):
    (images / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load("manifest", train=str(images / name))


def test_labels_of_test_must_be_known_and_there(images):
    train = table(images, ROWS)
    for label, got in (("cow", "'cow'"), ("", "None")):
        with pytest.raises(ValueError, match=rf"got {got} in row 1"):
            load("manifest", train=train, test=table(images, [("images/0.png", label)], "test.csv"))


@pytest.fixture
def partly(images):
    """Two labelled images and four without."""
    return {
        "name": "manifest",
        "train": table(images, [(p, c if i < 2 else "") for i, (p, c) in enumerate(ROWS)]),
    }


def test_images_without_labels_are_kept_and_never_held_out(partly):
    options = {k: v for k, v in partly.items() if k != "name"}
    splits = load("manifest", **options, val=0.5)
    assert splits.val is not None
    assert splits.val.targets.tolist() in ([0], [1])
    assert sorted(splits.train.targets.tolist())[:4] == [-1] * 4
    assert len(load("manifest", **options, limit=3).train) == 3


def test_terms_without_labels_learn_from_images_without(partly, digits_config):
    config = {**digits_config, "data": partly, "losses": [{"name": "kd"}], "gradients": {"align": "none"}}
    run = us.distill(config, quiet=True, **{"train.epochs": 1, "train.batch_size": 4})
    assert run.metrics["status"] == "finished"


def test_terms_with_labels_refuse_images_without(partly, digits_config):
    with pytest.raises(ValueError, match=r"term 'ce' must have labels, got 4 of 6 training images without"):
        us.distill({**digits_config, "data": partly}, quiet=True)


def test_labels_below_minus_one_are_refused():
    from understudy.data.images import ImageSet

    with pytest.raises(ValueError, match="must lie in"):
        ImageSet.read(
            torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([-2]), ["a", "b"], "x", unlabelled=True
        )
