"""Image sets: subsets that remember where they come from, and checks of labels."""

import pytest
import torch

from understudy.data import ImageSet


def image_set(targets, classes=("a", "b", "c")):
    images = torch.arange(len(targets), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 4).contiguous()
    return ImageSet.read(images, torch.tensor(targets, dtype=torch.int64), classes, "some/train")


def test_a_set_knows_its_sizes():
    data = image_set([0, 1, 1, 2])
    assert (len(data), data.num_classes, data.channels, data.image_size, data.num_read) == (
        4,
        3,
        3,
        (2, 4),
        4,
    )


def test_index_means_the_same_image_in_a_subset_of_a_subset():
    data = image_set([0, 1, 2, 0, 1, 2])
    part = data.subset(torch.tensor([5, 1, 3, 4])).subset(torch.tensor([2, 0]))
    assert part.index.tolist() == [3, 5]
    assert part.images[:, 0, 0, 0].tolist() == [3, 5]
    assert part.targets.tolist() == [0, 2]
    assert part.num_read == 6
    assert part.classes == data.classes


def test_moving_takes_all_tensors_along():
    moved = image_set([0, 1]).to("meta")
    assert {moved.images.device.type, moved.targets.device.type, moved.index.device.type} == {"meta"}
    assert moved.device.type == "meta"


@pytest.mark.parametrize(("targets", "first", "value"), [([0, 1, 3, -1], 2, 3), ([0, -1, 7], 1, -1)])
def test_the_first_label_out_of_range_is_named(targets, first, value):
    with pytest.raises(
        ValueError, match=rf"some/train must lie in \[0, 3\), got {value} at image {first}, the first of 2"
    ):
        image_set(targets)


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="some/train must hold at least one image"):
        image_set([])
