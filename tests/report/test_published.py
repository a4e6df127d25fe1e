"""Published numbers: presets only, plausible, and found by plain names."""

from understudy.methods.presets import PRESETS
from understudy.report.published import _tables, published


def test_every_number_belongs_to_a_preset_and_has_a_source():
    for data, rows in _tables().items():
        assert data in ("cifar100", "imagenet")
        pairs = [(row["teacher"], row["student"]) for row in rows]
        assert len(pairs) == len(set(pairs))
        for row in rows:
            for name, numbers in row["results"].items():
                assert name in PRESETS or name in ("teacher", "student alone")
                assert all("Table" in source for source in numbers)
                assert all(60 < value < 85 for value in numbers.values())


def test_a_pair_is_found_whoever_makes_the_network():
    rows = published("imagenet", "torchvision/resnet34", "torchvision/resnet18")
    assert rows["dhkd"][0].value == 72.15
    assert rows["student alone"][0].source
    assert published("digits", "cnn_small", "cnn_tiny") == {}
