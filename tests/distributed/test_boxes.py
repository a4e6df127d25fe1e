"""Detection on one and two processes: the same proposals are drawn, so the step and the scores are the same."""

import pytest
import torch

pytestmark = pytest.mark.slow
pytest.importorskip("pycocotools", reason="the extra detection is not installed")


@pytest.fixture(scope="module")
def found(steps_of):
    return {world: steps_of("boxes.py", world=world) for world in (1, 2)}


def test_two_processes_take_the_step_of_one(found, difference):
    assert found[1].keys() == found[2].keys()
    for name in found[1].keys() - {"scores"}:
        assert difference(found[1][name], found[2][name]) < 1e-8, name


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
