"""ImageNet's augmentation by counter: views that can be made again, and are what torchvision would make."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import functional as TF

import understudy as us
from understudy.data.endless import ResizedCrop
from understudy.data.images import ImageSet
from understudy.data.loader import TrainLoader

MEAN, STD = torch.zeros(3), torch.ones(3)


def images(n=6, height=20, width=24):
    torch.manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8)


def rendered(augment, view, data):
    return augment.render(data, torch.arange(len(view)), view, MEAN, STD)


def test_a_view_is_the_crop_scaled_by_torch():
    data, augment = images(), ResizedCrop(flip=False)
    view = augment.views(3, 1, torch.arange(6))
    boxes = augment.boxes(view, 20, 24).long().tolist()
    for i, (top, left, h, w) in enumerate(boxes):
        crop = data[i : i + 1, :, top : top + h, left : left + w].double() / 255
        expected = F.interpolate(crop, (20, 24), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(rendered(augment, view, data)[i].double(), expected, atol=2e-5, rtol=0)


def test_the_whole_image_is_the_image():
    data = images()
    augment = ResizedCrop(scale=(1.0, 1.0), ratio=(24 / 20, 24 / 20), flip=False)
    got = rendered(augment, augment.views(0, 0, torch.arange(6)), data)
    torch.testing.assert_close(got, data.float() / 255, atol=1e-5, rtol=0)


def test_half_of_the_views_are_mirrored():
    data = images(n=400)
    augment = ResizedCrop(scale=(1.0, 1.0), ratio=(24 / 20, 24 / 20))
    got = rendered(augment, augment.views(0, 0, torch.arange(400)), data)
    plain = (got - data.float() / 255).abs().amax(dim=(1, 2, 3)) < 1e-4
    mirrored = (got - data.flip(3).float() / 255).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (plain ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 200) < 50  # five standard deviations


def test_areas_and_shapes_are_drawn_evenly():
    augment = ResizedCrop()
    boxes = augment.boxes(augment.views(1, 2, torch.arange(20000)), 224, 224)
    top, left, h, w = boxes.unbind(dim=1)
    assert ((h >= 1) & (w >= 1) & (top >= 0) & (left >= 0) & (top + h <= 224) & (left + w <= 224)).all()
    # torchvision's own sampler, on as many crops
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.zeros(1, 224, 224)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(5000)]
    ).double()
    for ours, other in zip((top, left, h, w), theirs.unbind(dim=1), strict=True):
        error = 5 * other.std() / math.sqrt(5000) + 5 * ours.std() / math.sqrt(20000)
        assert abs(ours.mean() - other.mean()) < error
        assert abs(ours.std() - other.std()) < 0.05 * other.std()


def test_what_never_fits_is_the_central_crop():
    augment = ResizedCrop(scale=(1.0, 1.0), ratio=(4.0, 5.0))
    box = augment.boxes(augment.views(0, 0, torch.arange(3)), 20, 24)
    assert box.tolist() == [[7.0, 0.0, 6.0, 24.0]] * 3


def test_colours_are_changed_as_torchvision_changes_them():
    data = images()
    augment = ResizedCrop(scale=(1.0, 1.0), ratio=(24 / 20, 24 / 20), flip=False, colour=0.4)
    view = augment.views(0, 0, torch.arange(6))
    from understudy.data.endless import draws

    factors = 0.6 + 0.8 * draws(view, 3, 200)
    for i, (b, c, s) in enumerate(factors.tolist()):
        expected = TF.adjust_saturation(TF.adjust_contrast(TF.adjust_brightness(data[i] / 255, b), c), s)
        # torchvision's grey has weights of 4 digits, .2989 .587 .114
        torch.testing.assert_close(rendered(augment, view, data)[i], expected, atol=5e-4, rtol=0)


def test_a_view_is_a_function_of_seed_epoch_and_index_alone():
    augment = ResizedCrop(colour=0.2)
    data = images()
    view = augment.views(5, 7, torch.arange(6))
    assert torch.equal(view[[4, 1]], augment.views(5, 7, torch.tensor([4, 1])))
    assert not torch.equal(view, augment.views(5, 8, torch.arange(6)))
    assert len(set(augment.views(0, 0, torch.arange(10000)).tolist())) == 10000
    alone = augment.render(data, torch.tensor([4]), view[4:5], MEAN, STD)
    assert torch.equal(alone[0], rendered(augment, view, data)[4])


def test_the_loader_shows_the_same_views_from_any_step():
    targets = torch.arange(6) % 2
    data = ImageSet.read(images(), targets, ["a", "b"], "x")
    loader = TrainLoader(data, ResizedCrop(), batch_size=2, seed=1, mean=[0.0] * 3, std=[1.0] * 3)
    whole, late = list(loader.epoch(2)), list(loader.epoch(2, start_step=2))
    assert torch.equal(whole[2].images, late[0].images)
    assert not loader.augment.finite


def test_grey_images_and_a_run_with_endless_views(digits_config):
    config = {
        **digits_config,
        "data": {**digits_config["data"], "augment": {"name": "resized_crop", "colour": 0.3}},
    }
    run = us.distill(config, quiet=True, **{"train.epochs": 1})
    assert run.config.data.augment is not None
    assert (run.config.data.augment.name, run.config.data.augment.colour) == ("resized_crop", 0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, "scale must be two rising shares"),
        ({"ratio": (2.0, 1.0)}, "ratio must be two rising numbers"),
        ({"colour": 1.0}, "colour must lie in"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResizedCrop(**options)


def test_fixed_views_are_few_and_every_image_has_its_own():
    augment = ResizedCrop(fixed=3)
    index = torch.arange(400)
    seen = torch.stack([augment.views(0, epoch, index) for epoch in range(20)])
    assert seen.unique().tolist() == [0, 1, 2]
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(2, -1, -1, -1).contiguous()
    rows, view = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1])
    shown = augment.render(images, rows, view, torch.zeros(1), torch.ones(1))
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])
