"""Spoiled images: the same ones always, worse with every level, and of their own image alone."""

import math

import pytest
import torch

from understudy.data.corruptions import CORRUPTIONS, LEVELS, corrupt, corrupted
from understudy.data.counter import Stream, uniform
from understudy.data.digits import read_digits

every_kind = pytest.mark.parametrize("kind", CORRUPTIONS)


@pytest.fixture(scope="module")
def photos():
    """Smooth colour images, as photographs are."""
    torch.manual_seed(0)
    coarse = torch.rand(12, 3, 6, 6)
    return (torch.nn.functional.interpolate(coarse, 32, mode="bilinear") * 255).to(torch.uint8)


@every_kind
@pytest.mark.parametrize("level", LEVELS)
def test_an_image_is_spoiled_alike_in_any_order_batch_and_company(photos, kind, level):
    index = torch.arange(100, 112)
    whole = corrupt(photos, kind, level, index=index)
    assert whole.dtype == torch.uint8
    assert whole.shape == photos.shape
    order = torch.randperm(12)
    assert corrupt(photos[order], kind, level, index=index[order]).equal(whole[order])
    for i in (0, 11):
        assert corrupt(photos[i : i + 1], kind, level, index=index[i : i + 1]).equal(whole[i : i + 1])


@every_kind
def test_every_level_is_worse_than_the_one_before(photos, kind):
    index = torch.arange(12)
    gaps = [
        float((corrupt(photos, kind, level, index=index).float() - photos).abs().mean()) for level in LEVELS
    ]
    assert gaps == sorted(gaps)
    assert gaps[0] > 0


def test_blocks_change_nothing(monkeypatch, photos):
    index = torch.arange(12)
    whole = corrupt(photos, "noise", 3, index=index)
    monkeypatch.setattr("understudy.data.corruptions._BLOCK", 5)
    assert corrupt(photos, "noise", 3, index=index).equal(whole)


def test_noise_is_a_function_of_seed_and_index(photos):
    same = photos[:1].repeat(4, 1, 1, 1)
    noisy = corrupt(same, "noise", 2, index=torch.tensor([0, 1, 0, 1]))
    assert noisy[0].equal(noisy[2])
    assert not noisy[0].equal(noisy[1])
    assert not corrupt(same, "noise", 2, index=torch.tensor([0, 1, 0, 1]), seed=1).equal(noisy)


def test_noise_is_the_normal_numbers_of_its_counters():
    """One grey pixel of a known image, written out."""
    grey = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    noisy = corrupt(grey, "noise", 1, index=torch.tensor([7]), seed=3)
    pixel = 13
    u, v = (float(uniform(3, Stream.CORRUPTION, 7, 2 * pixel + i)) for i in (0, 1))
    expected = 128 + 255 * 0.08 * math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v)
    assert int(noisy.flatten()[pixel]) == round(expected)


def test_noise_has_the_spread_it_says():
    grey = torch.full((50, 1, 32, 32), 128, dtype=torch.uint8)
    noisy = corrupt(grey, "noise", 1, index=torch.arange(50)).double()
    assert float(noisy.mean()) == pytest.approx(128, abs=0.5)
    assert float(noisy.std()) == pytest.approx(255 * 0.08, rel=0.02)


def test_contrast_keeps_the_mean_and_blur_the_constant(photos):
    index = torch.arange(12)
    flat = corrupt(photos, "contrast", 5, index=index).double()
    torch.testing.assert_close(flat.mean(dim=(2, 3)), photos.double().mean(dim=(2, 3)), atol=0.5, rtol=0)
    assert float(flat.std()) < 0.2 * float(photos.double().std()) + float(photos.double().mean((2, 3)).std())
    grey = torch.full((2, 3, 16, 16), 90, dtype=torch.uint8)
    assert corrupt(grey, "blur", 5, index=torch.arange(2)).equal(grey)


@every_kind
def test_grey_digits_of_8_pixels_are_spoiled_too(kind):
    _, test = read_digits()
    spoiled = corrupted(test.subset(torch.arange(20)), kind, 5)
    assert spoiled.images.shape == (20, 1, 8, 8)
    assert not spoiled.images.equal(test.images[:20])
    assert spoiled.targets.equal(test.targets[:20])


@pytest.mark.parametrize(
    ("kind", "level", "dtype", "message"),
    [
        ("fog", 1, torch.uint8, "kind must be one of noise, blur, contrast, jpeg, got 'fog'"),
        ("noise", 6, torch.uint8, "level must be from 1 to 5, got 6"),
        ("noise", 1, torch.float32, "images must be uint8"),
    ],
)
def test_wrong_arguments_are_named(kind, level, dtype, message):
    with pytest.raises(ValueError, match=message):
        corrupt(torch.zeros(1, 3, 8, 8, dtype=dtype), kind, level, index=torch.zeros(1, dtype=torch.int64))
