"""Segmentation on one, two and four processes: the mean over labelled pixels is that of the global batch."""

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(steps_of):
    return {world: steps_of("pixels.py", world=world) for world in (1, 2)}


def test_two_processes_take_the_step_of_one(found, difference):
    assert found[1].keys() == found[2].keys()
    for name in found[1].keys() - {"scores"}:
        assert difference(found[1][name], found[2][name]) < 1e-9, name


def test_scores_are_the_same_to_the_last_bit(found):
    for name in ("student", "teacher"):
        one, two = found[1]["scores"][name], found[2]["scores"][name]
        assert torch.equal(one[0], two[0])
        assert one[1:] == two[1:]
    assert found[1]["scores"]["student"][0].sum() > 0


def test_the_mean_over_the_processes_own_means_would_be_another(found, worker):
    """So the test above can fail: the images hold different numbers of labelled pixels."""
    pixels = worker("pixels")
    distiller = pixels.distiller_of(pixels.LOSSES["ce"], "none").eval()
    images, masks = pixels.global_batch(7)
    halves = [float(distiller(images[rows], masks[rows]).loss.detach()) for rows in (slice(3), slice(3, 7))]
    whole = float(distiller(images, masks).loss.detach())
    assert abs((3 * halves[0] + 4 * halves[1]) / 7 - whole) > 1e-3
