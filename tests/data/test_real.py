"""The real sets: whole, readable, and with the pixels they are known for."""

import pytest

from understudy.data import load
from understudy.data.normalisation import PUBLISHED, pixel_statistics

pytestmark = pytest.mark.data


def test_cifar10_in_parquet_is_whole_and_close_to_the_published_statistics(data_root):
    folder = data_root / "cifar10"
    splits = load("parquet", train=folder / "train.parquet", test=folder / "test.parquet", val=0.1)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (45_000, 5_000, 10_000)
    assert splits.val.targets.bincount().tolist() == [500] * 10
    assert splits.classes[3] == "cat"
    mean, std = PUBLISHED["cifar10"]
    assert splits.mean == pytest.approx(mean, abs=0.002)  # JPEG copies blur a little
    assert splits.std == pytest.approx(std, abs=0.004)


def test_tiny_imagenet_part_is_whole(data_root):
    splits = load("parquet", train=data_root / "tin32-a" / "train.parquet", limit=1000)
    assert splits.train.targets.bincount().tolist() == [10] * 100
    assert splits.image_size == (32, 32)
    assert pixel_statistics(splits.train.images)[0] == pytest.approx(splits.mean, abs=0.03)
