"""RandAugment and AutoAugment by counter: torchvision's pixels, drawn from the number of a view alone."""

from collections import Counter

import pytest
import torch
from torchvision.transforms import v2

import understudy as us
from understudy.build import augment_config, augmentation
from understudy.config import load_config
from understudy.data import AutoAugment, PadCropFlip, Policy, RandAugment, ResizedCrop, load
from understudy.data.images import ImageSet
from understudy.data.loader import TrainLoader

MEAN, STD = torch.zeros(3), torch.ones(3)


def images(n=6, channels=3, height=20, width=24):
    shape = (n, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def by_torchvision(image, steps):
    theirs = v2.RandAugment()
    for name, magnitude in steps:
        image = theirs._apply_image_or_video_transform(image, name, magnitude, "nearest", theirs._fill)
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", [RandAugment(3, 14), *map(AutoAugment, ("cifar10", "imagenet", "svhn"))])
def test_pixels_are_torchvisions_after_the_crop(policy, channels):
    data, augment = images(60, channels), Policy(PadCropFlip(pad=2), policy)
    rows = torch.arange(60)
    view = augment.views(3, 1, rows)
    shown = augment.crop(data, rows, view)
    plain = Policy(PadCropFlip(pad=2), Nothing()).crop(data, rows, view)
    steps = policy.steps(view, 20, 24)
    for i in range(60):
        assert torch.equal(shown[i], by_torchvision(plain[i], steps[i])), steps[i]


class Nothing(RandAugment):
    """A policy that does nothing, to see the crop below it."""

    def steps(self, number, height, width):
        return [[] for _ in number]


def test_rand_augment_draws_every_operation_evenly_in_both_directions_at_its_magnitude():
    theirs = v2.RandAugment._AUGMENTATION_SPACE
    view = Policy(PadCropFlip(), RandAugment()).views(0, 0, torch.arange(14_000))
    drawn = RandAugment(ops=2, magnitude=9).steps(view, 20, 24)
    for place in range(2):
        counts = Counter(name for name, _ in (steps[place] for steps in drawn))
        assert counts.keys() == theirs.keys()
        assert all(abs(count - 1000) < 155 for count in counts.values())  # five standard deviations
    for name, (levels, signed) in theirs.items():
        found = {magnitude for steps in drawn for own, magnitude in steps if own == name}
        level = levels(31, 20, 24)
        value = 0.0 if level is None else float(level[9])
        assert found == ({value, -value} if signed else {value})
    bright = [m for steps in drawn for own, m in steps if own == "Brightness"]
    assert 0.4 < sum(m > 0 for m in bright) / len(bright) < 0.6


def test_auto_augment_draws_its_pairs_with_their_probabilities():
    pairs = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
    drawn = AutoAugment("cifar10").steps(torch.arange(25_000), 32, 32)
    expected = sum(p for pair in pairs for _, p, _ in pair) / 25
    assert abs(sum(map(len, drawn)) / 25_000 - expected) < 0.03
    counts = Counter(name for steps in drawn for name, _ in steps)
    for name in counts:
        share = sum(p for pair in pairs for own, p, _ in pair if own == name) / 25
        assert abs(counts[name] / 25_000 - share) < 0.02


@pytest.mark.parametrize("base", [PadCropFlip(pad=2), ResizedCrop()])
@pytest.mark.parametrize("fixed", [None, 3])
def test_a_view_is_a_function_of_its_number_and_not_of_its_batch(base, fixed):
    data, augment = images(), Policy(base, RandAugment(), fixed)
    rows = torch.arange(6)
    view = augment.views(5, 7, rows)
    whole = augment.render(data, rows, view, MEAN, STD)
    assert torch.equal(augment.views(5, 7, rows[[4, 1]]), view[[4, 1]])
    for i in range(6):
        alone = augment.render(data, rows[i : i + 1], view[i : i + 1], MEAN, STD)
        assert torch.equal(alone[0], whole[i])
        apart = augment.render(data[i : i + 1], rows[:1], view[i : i + 1], MEAN, STD, place=rows[i : i + 1])
        assert torch.equal(apart[0], whole[i])


def test_fixed_views_are_few_and_every_image_has_its_own():
    augment = Policy(PadCropFlip(pad=0, flip=False), RandAugment(ops=2, magnitude=20), fixed=2)
    assert augment.finite
    assert torch.stack([augment.views(0, e, torch.arange(50)) for e in range(9)]).unique().tolist() == [0, 1]
    data = images(1).expand(40, -1, -1, -1).contiguous()
    same = torch.ones(40, dtype=torch.int64)
    shown = augment.crop(data, torch.arange(40), same)
    assert torch.equal(shown, augment.crop(data, torch.arange(40), same))
    assert len({tuple(s.flatten().tolist()) for s in shown}) > 20


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_and_a_resumed_epoch_show_the_same_bits(world):
    data = ImageSet.read(images(23), torch.arange(23) % 2, ["a", "b"], "x")

    def epoch(start=0, **ranks):
        loader = TrainLoader(
            data,
            Policy(PadCropFlip(2), RandAugment()),
            batch_size=6,
            seed=1,
            mean=[0.0] * 3,
            std=[1.0] * 3,
            **ranks,
        )
        return [batch.images for batch in loader.epoch(2, start)]

    whole = epoch()
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], epoch(start=2), strict=True))
    parts = zip(*(epoch(rank=r, world=world) for r in range(world)), strict=True)
    assert all(torch.equal(torch.cat(part), batch) for part, batch in zip(parts, whole, strict=True))


def config(digits_config, augment, **changes):
    given = digits_config | {"data": digits_config["data"] | {"augment": augment}}
    return load_config(given, changes)


@pytest.mark.parametrize(
    "augment",
    [
        {"randaugment": {"ops": 1, "magnitude": 5}, "pad": 1},
        {"name": "resized_crop", "randaugment": {}, "fixed": 4},
        {"autoaugment": "cifar10", "flip": False},
        {"name": "resized_crop", "fixed": 4},
        {"pad": 2},
    ],
)
def test_the_resolved_config_makes_the_same_views(digits_config, augment):
    data = load("digits")
    made = augmentation(config(digits_config, augment).data, data)
    again = config(digits_config, augment_config(made)).data
    assert augmentation(again, data) == made


def test_a_run_with_endless_views_keeps_no_table_and_one_with_fixed_views_does(digits_config):
    endless = us.distill(
        config(digits_config, {"randaugment": {"ops": 1}}, **{"train.epochs": 2}), quiet=True
    )
    assert endless.config.teacher.table == "off"
    assert "no table of the teacher's answers" in (endless.path / "train.log").read_text()
    changes = {"train.epochs": 8, "output": f"{endless.path}-fixed"}
    few = us.distill(config(digits_config, {"randaugment": {"ops": 1}, "fixed": 2}, **changes), quiet=True)
    assert few.config.teacher.table not in ("off", "auto")
    assert few.metrics["teacher"]["images_forwarded"] < 8 * 144 / 2
    assert "2 fixed views" in (few.path / "train.log").read_text()


def test_a_table_of_endless_views_is_refused(digits_config, tmp_path):
    wanted = config(digits_config, {"autoaugment": "cifar10"}, **{"teacher.table": str(tmp_path / "t")})
    with pytest.raises(ValueError, match=r"teacher.table must be off where no view comes again"):
        us.distill(wanted, quiet=True)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"randaugment": {}, "autoaugment": "cifar10"}, "randaugment and autoaugment must not both be given"),
        ({"fixed": 3}, "fixed must stand beside resized_crop, randaugment or autoaugment, got 3"),
        ({"randaugment": {"magnitude": 31}}, "data.augment.randaugment.magnitude should be less than"),
        ({"randaugment": {"op": 2}}, "unknown key 'data.augment.randaugment.op'. Did you mean 'ops'"),
        ({"autoaugment": "cifar"}, "data.augment.autoaugment should be 'cifar10', 'imagenet' or 'svhn'"),
    ],
)
def test_wrong_settings_are_one_line(digits_config, augment, message):
    with pytest.raises(ValueError, match=message):
        config(digits_config, augment)


def test_wrong_numbers_are_refused_without_a_config():
    with pytest.raises(ValueError, match=r"randaugment.ops must be at least 1, got 0"):
        RandAugment(ops=0)
    with pytest.raises(ValueError, match="magnitude must be from 0 to 30, got 31"):
        RandAugment(magnitude=31)
    with pytest.raises(ValueError, match="fixed must be at least 1 view"):
        Policy(PadCropFlip(), RandAugment(), fixed=0)
