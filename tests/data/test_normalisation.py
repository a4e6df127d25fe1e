"""Statistics of pixels against numpy, and their application."""

import numpy as np
import pytest
import torch

from understudy.data.normalisation import normalise, pixel_statistics


@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (700, 1, 100, 100)])  # the second in two blocks
def test_statistics_are_numpys_mean_and_population_deviation(shape):
    images = torch.randint(0, 200, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = pixel_statistics(images)
    share = images.numpy() / 255
    np.testing.assert_allclose(mean, share.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, share.std(axis=(0, 2, 3)), rtol=1e-12)


def test_statistics_do_not_depend_on_the_order_of_the_images():
    images = torch.randint(
        0, 256, (100, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    assert pixel_statistics(images) == pixel_statistics(images.flip(0))


def test_a_constant_channel_can_still_be_normalised():
    images = torch.full((4, 1, 2, 2), 51, dtype=torch.uint8)
    mean, std = pixel_statistics(images)
    assert (mean, std) == ((0.2,), (1 / 255,))
    assert normalise(images, torch.tensor(mean), torch.tensor(std)).abs().max() < 1e-4


def test_normalised_images_have_mean_0_and_deviation_1():
    images = torch.randint(
        0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = (torch.tensor(v) for v in pixel_statistics(images))
    got = normalise(images, mean, std)
    torch.testing.assert_close(got.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.std(dim=(0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)
