"""Images of several classes on one and two processes."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(steps_of):
    return {world: steps_of("labels.py", world=world) for world in (1, 2)}


def test_two_processes_take_the_step_of_one(found, difference):
    assert found[1].keys() == found[2].keys()
    for name in found[1].keys() - {"scores"}:
        assert difference(found[1][name], found[2][name]) < 1e-9, name


@pytest.mark.parametrize("size", [9, 1])
def test_the_images_are_ranked_all_together(found, size):
    one, two = (found[world]["scores"][size] for world in (1, 2))
    assert repr(one) == repr(two)  # NaN where no image has a class
    assert one["student"][1] > 0
