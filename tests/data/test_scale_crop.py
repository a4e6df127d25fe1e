"""Scale, crop and mirror of image and mask together: a function of the view's number, the same for both."""

import numpy as np
import pytest
import torch

from understudy.data import ScaleCropFlip, TrainLoader
from understudy.data.masks import MaskSet
from understudy.interface import IGNORE

SIZE = (9, 12)


def identical(count=4):
    """Images whose pixels are the values of their own masks."""
    g = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 200, (count, *SIZE), generator=g, dtype=torch.uint8)
    return masks[:, None].expand(-1, 3, -1, -1).contiguous(), masks


def views(count, seed=0):
    return ScaleCropFlip().views(seed, 0, torch.arange(count))


def shown(augment, images, masks, rows, view):
    return (
        augment.render(images, rows, view, torch.zeros(3), torch.ones(3) / 255),
        augment.masks(masks, rows, view),
    )


def test_without_a_scale_it_is_the_image_itself():
    images, masks = identical()
    rows = torch.tensor([2, 0])
    got, given = shown(ScaleCropFlip((1.0, 1.0), flip=False), images, masks, rows, views(2))
    torch.testing.assert_close(got, images[rows].float(), rtol=0, atol=1e-3)
    assert torch.equal(given, masks[rows])


def test_a_window_of_the_image_is_cut_out_and_mirrored_alike():
    images, masks = identical()
    rows, view = torch.arange(4).repeat(16), views(64)
    got, given = shown(ScaleCropFlip((1.0, 1.0), (4, 5)), images, masks, rows, view)
    torch.testing.assert_close(got, given[:, None].expand_as(got).float(), rtol=0, atol=1e-3)
    places = set()
    for row, window in zip(rows.tolist(), given, strict=True):
        found = [
            (y, x, mirrored)
            for mirrored in (False, True)
            for y in range(SIZE[0] - 3)
            for x in range(SIZE[1] - 4)
            if torch.equal(masks[row, y : y + 4, x : x + 5], window.flip(1) if mirrored else window)
        ]
        assert len(found) == 1
        places.update(found)
    assert {mirrored for *_, mirrored in places} == {False, True}
    assert {y for y, *_ in places} == set(range(6))
    assert {x for _, x, _ in places} == set(range(8))


def naive(augment, masks, row, view):
    """The mask pixel by pixel from the coordinates of the view."""
    ys, xs = (c[0].tolist() for c in augment.coordinates(torch.tensor([view]), SIZE))
    out = np.full((len(ys), len(xs)), IGNORE)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            if -0.5 <= y <= SIZE[0] - 0.5 and -0.5 <= x <= SIZE[1] - 0.5:
                out[i, j] = masks[row, min(int(y + 0.5), SIZE[0] - 1), min(int(x + 0.5), SIZE[1] - 1)]
    return out


@pytest.mark.parametrize("crop", [None, (6, 20), (14, 7)])
def test_masks_are_read_at_the_nearest_pixel_and_ignored_outside(crop):
    images, masks = identical()
    augment, view = ScaleCropFlip((0.4, 1.6), crop), views(4)
    got, given = shown(augment, images, masks, torch.arange(4), view)
    assert given.shape[1:] == got.shape[2:] == augment.size(SIZE)
    for i in range(4):
        assert np.array_equal(given[i].numpy(), naive(augment, masks, i, int(view[i])))


def test_around_a_small_image_is_the_mean_colour():
    images, masks = identical()
    images[:] = 100
    augment, rows = ScaleCropFlip((0.5, 0.5)), torch.arange(4)
    got = augment.render(images, rows, views(4), torch.tensor([0.1, 0.2, 0.3]), torch.ones(3))
    outside = augment.masks(masks, rows, views(4)) == IGNORE
    assert outside.sum(dim=(1, 2)).tolist() == [9 * 12 - 4 * 6] * 4
    assert not got.permute(0, 2, 3, 1)[outside].any()
    inside = got.permute(0, 2, 3, 1)[~outside]
    torch.testing.assert_close(inside, (100 / 255 - torch.tensor([0.1, 0.2, 0.3])).expand_as(inside))


def test_scales_are_drawn_evenly_and_views_by_seed_epoch_and_index():
    augment = ScaleCropFlip((0.5, 2.0))
    view = augment.views(3, 1, torch.arange(4000))
    y, _ = augment.coordinates(view, (100, 100))
    scale = 1 / (y[:, 1] - y[:, 0])
    assert 0.495 < float(scale.min()) < 0.52
    assert 1.98 < float(scale.max()) < 2.005
    assert float(scale.mean()) == pytest.approx(1.25, abs=0.02)
    assert torch.equal(view[7:8], augment.views(3, 1, torch.tensor([7])))
    assert not torch.equal(view, augment.views(3, 2, torch.arange(4000)))


def test_the_loader_gives_images_and_masks_of_any_rank_and_step():
    images, masks = identical(7)
    data = MaskSet.read(images, masks, tuple(map(str, range(200))), "test")
    loaders = [
        TrainLoader(data, ScaleCropFlip(crop=(6, 8)), batch_size=4, seed=1, mean=(0.5,) * 3, std=(0.2,) * 3,
                    rank=rank, world=world)
        for rank, world in ((0, 1), (0, 2), (1, 2))
    ]  # fmt: skip
    whole, *parts = [list(loader.epoch(2)) for loader in loaders]
    for step, batch in enumerate(whole):
        assert batch.target.dtype == torch.int64
        assert torch.equal(batch.target, torch.cat([part[step].target for part in parts]))
        assert torch.equal(batch.images, torch.cat([part[step].images for part in parts]))
    assert torch.equal(next(loaders[0].epoch(2, 1)).target, whole[1].target)


@pytest.mark.parametrize("options", [{"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}, {"crop": (0, 4)}])
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ValueError, match=r"data.augment\.(zoom|crop) must be"):
        ScaleCropFlip(**options)
