"""Images of several classes on one and two processes."""

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(processes, tmp_path_factory):
    folder, results = tmp_path_factory.mktemp("labels"), {}
    for world in (1, 2):
        processes("labels.py", folder / f"{world}.pt", world=world)
        results[world] = torch.load(folder / f"{world}.pt")
    return results


def test_two_processes_take_the_step_of_one(found):
    steps = [name for name in found[1] if "scores" not in name]
    assert len(steps) == 8
    for name in steps:
        ours, theirs = found[1][name], found[2][name]
        assert ours.keys() == theirs.keys(), name
        largest = max(float(value.abs().max()) for value in ours.values())
        for key, value in ours.items():
            floor = max(float(value.abs().max()), 1e-6 * largest)  # smaller ones are rounding themselves
            assert float((value - theirs[key]).abs().max()) < 1e-9 * floor, (name, key)


@pytest.mark.parametrize("size", [9, 1])
def test_the_images_are_ranked_all_together(found, size):
    one, two = (found[world][f"scores of {size}"] for world in (1, 2))
    assert repr(one) == repr(two)  # NaN where no image has a class
    assert one["student"][1] > 0
