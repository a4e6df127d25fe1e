"""From a name and options to splits: holding out, limiting, normalisation, and mistyped options."""

import inspect

import pytest
import torch
from PIL import Image

from understudy.data import DATASETS, load
from understudy.data.normalisation import pixel_statistics


def test_val_is_held_out_of_train_and_the_two_share_no_image():
    whole, part = load("digits"), load("digits", val=0.2)
    assert (len(part.train), len(part.val)) == (1038, 259)
    assert torch.cat((part.train.index, part.val.index)).sort().values.tolist() == list(range(1297))
    for held in (part.train, part.val):
        assert torch.equal(held.images, whole.train.images[held.index])
        assert torch.equal(held.targets, whole.train.targets[held.index])
        assert held.num_read == 1297


def test_val_has_every_class_in_proportion():
    splits = load("digits", val=0.2)
    whole = load("digits").train.targets.bincount()
    assert ((splits.val.targets.bincount() - whole * 259 / 1297).abs() < 1).all()


def test_no_val_by_default():
    splits = load("digits")
    assert splits.val is None
    assert len(splits.train) == 1297


def test_limit_takes_equally_many_of_every_class_and_leaves_val_alone():
    splits = load("digits", val=0.1, limit=205)
    counts = splits.train.targets.bincount()
    assert len(splits.train) == 205
    assert int(counts.max() - counts.min()) == 1
    assert torch.equal(splits.val.index, load("digits", val=0.1).val.index)
    assert not set(splits.train.index.tolist()) & set(splits.val.index.tolist())


def test_split_seed_alone_decides_what_is_held_out():
    torch.manual_seed(0)
    first = load("digits", val=0.1)
    torch.manual_seed(1)
    assert torch.equal(first.val.index, load("digits", val=0.1).val.index)
    assert not torch.equal(first.val.index, load("digits", val=0.1, split_seed=1).val.index)


def test_test_is_the_same_whatever_is_held_out():
    assert torch.equal(
        load("digits", val=0.3, limit=50, split_seed=9).test.images, load("digits").test.images
    )


def test_normalisation_is_that_of_all_training_images_whatever_is_held_out():
    whole = load("digits")
    assert (whole.mean, whole.std) == pixel_statistics(whole.train.images)
    part = load("digits", val=0.3, limit=50)
    assert (part.mean, part.std) == (whole.mean, whole.std)


def test_test_images_can_be_left_out():
    assert load("digits", test=False).test is None


def test_training_and_test_images_must_have_one_size(tmp_path):
    for part, size in (("train", 16), ("test", 24)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (size, size), 40 if name == "a" else 90).save(tmp_path / part / name / "0.png")
    folders = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    with pytest.raises(ValueError, match=r"must have one size, got 16×16 and 24×24\. Set data\.image_size"):
        load("imagefolder", **folders)
    assert load("imagefolder", image_size=16, **folders).test.image_size == (16, 16)


@pytest.mark.parametrize(
    ("name", "paths"), [("imagefolder", ["a", "b"]), ("manifest", ["a.csv"]), ("parquet", [])]
)
def test_a_list_of_paths_is_refused_where_there_is_one(name, paths):
    with pytest.raises(ValueError, match=r"data\.train must be one path, for parquet also a list of some"):
        load(name, train=paths)


def test_normalisation_can_be_given():
    splits = load("digits", mean=[0.5], std=[0.25])
    assert (splits.mean, splits.std) == ((0.5,), (0.25,))


def test_splits_tell_what_a_network_must_fit():
    splits = load("digits")
    assert (splits.channels, splits.image_size, splits.num_classes) == (1, (8, 8), 10)
    assert splits.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 1.0}, r"data\.val must be a share in \[0, 1\), got 1\.0"),
        ({"val": -0.1}, r"data\.val must be a share"),
        ({"val": 0.0001}, r"data\.val must hold out at least one image and leave one, got 0 of 1297"),
        ({"val": 0.9999}, r"data\.val must hold out at least one image and leave one, got 1297 of 1297"),
        ({"limit": 0}, r"data\.limit must be from 1 to the 1297 training images there are, got 0"),
        ({"limit": 1298}, r"data\.limit must be from 1 to the 1297"),
        ({"mean": [0.5]}, r"data\.mean and data\.std must be given together"),
        ({"mean": [0.5] * 3, "std": [0.2] * 3}, "must have 1 numbers, one a channel, got 3 and 3"),
        ({"mean": [0.5], "std": [0.0]}, r"data\.std must be above 0, got \[0\.0\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


def test_a_mistyped_data_set_gets_the_nearest_name():
    with pytest.raises(
        ValueError, match=r"must be one of camvid, .*, got 'cifar_100'\. Did you mean 'cifar100'\?"
    ):
        load("cifar_100")


def test_a_mistyped_option_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"got 'image_sizes'\. Did you mean 'image_size'\?"):
        load("parquet", train="a.parquet", image_sizes=32)
    with pytest.raises(ValueError, match=r"got 'limits'\. Did you mean 'limit'\?"):
        load("digits", limits=3)


def test_an_option_of_another_data_set_is_refused():
    with pytest.raises(ValueError, match=r"options of data set 'digits' must be among val, .*, got 'root'"):
        load("digits", root="~/data")


@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
def test_a_missing_option_is_named(name):
    with pytest.raises(ValueError, match=rf"data set '{name}' must have the option data\.train"):
        load(name)


def test_data_sets_are_listed_in_alphabetical_order():
    assert list(DATASETS) == sorted(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_no_option_of_a_reader_hides_one_of_load(name):
    common = {p for p, kind in inspect.signature(load).parameters.items() if kind.kind is kind.KEYWORD_ONLY}
    assert not common & set(inspect.signature(DATASETS[name]).parameters)
