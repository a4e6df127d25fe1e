"""Detection on one and two processes: the same proposals are drawn, so the step and the scores are the same."""

import pytest
import torch

pytestmark = pytest.mark.slow
pytest.importorskip("pycocotools", reason="the extra detection is not installed")


@pytest.fixture(scope="module")
def found(processes, tmp_path_factory):
    folder, steps = tmp_path_factory.mktemp("boxes"), {}
    for world in (1, 2):
        processes("boxes.py", folder / f"{world}.pt", world=world)
        steps[world] = torch.load(folder / f"{world}.pt")
    return steps


def test_two_processes_take_the_step_of_one(found):
    assert found[1].keys() == found[2].keys()
    for name in found[1].keys() - {"scores"}:
        ours, theirs = found[1][name], found[2][name]
        assert ours.keys() == theirs.keys(), name
        largest = max(float(value.abs().max()) for value in ours.values())
        for key, value in ours.items():
            floor = max(float(value.abs().max()), 1e-6 * largest)  # smaller ones are rounding themselves
            assert float((value - theirs[key]).abs().max()) < 1e-8 * floor, (name, key)


def test_scores_are_the_same(found):
    for name in ("student", "teacher"):
        (one, by_class), (two, theirs) = found[1]["scores"][name], found[2]["scores"][name]
        assert one == pytest.approx(two, abs=1e-9)
        assert by_class == pytest.approx(theirs, abs=1e-9)

    assert found[1]["scores"]["student"][0]["ap50"] > 0


def test_another_draw_would_be_another_step(worker):
    """So the test above can fail."""
    boxes = worker("boxes")
    distiller = boxes.distiller_of(boxes.LOSSES["ce and dkd"], "none").eval()
    images, target, index = boxes.global_batch(4)
    torch.manual_seed(5)
    one = distiller(images, target, index=index).loss
    torch.manual_seed(5)
    again = distiller(images, target, index=index).loss
    other = distiller(images, target, index=index + 1).loss
    assert torch.equal(one, again)
    assert abs(float((one - other).detach())) > 1e-6
