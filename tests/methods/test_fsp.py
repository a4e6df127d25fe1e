from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F


def flow(bottom, top):
    height = min(bottom.shape[2], top.shape[2])
    bottom, top = (F.adaptive_avg_pool2d(x, height) for x in (bottom, top))
    return torch.einsum("bihw,bjhw->bji", bottom, top) / height**2


def flow_difference(student, teacher, roles=("stage_0", "stage_1", "stage_2", "stage_3")):
    return sum(
        ((flow(student[a], student[b]) - flow(teacher[a], teacher[b])) ** 2).mean()
        for a, b in pairwise(roles)
    )


def test_the_loss_is_the_difference_of_flow_matrices_from_the_stem_on(bench):
    b = bench("fsp", teacher="cnn_tiny")
    assert b.method.stages == ((0, 0), (1, 1), (2, 2), (3, 3))
    torch.testing.assert_close(b.term(), flow_difference(*b.shown()))


def test_a_step_moves_the_student_as_the_equation_does(bench, written_out):
    def loss(student, teacher):
        return written_out.ce(student["logits"], by_hand.target) + 50 * flow_difference(student, teacher)

    by_engine, by_hand = (bench("fsp", teacher="cnn_tiny", weight=50.0) for _ in range(2))
    got, want = by_engine.step(lr=0.01), by_hand.step_by_hand(loss, lr=0.01)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")


def test_without_the_stem_the_given_stages_are_compared(bench):
    b = bench("fsp", teacher="cnn_tiny", stages=((1, 1), (3, 3)))
    torch.testing.assert_close(b.term(), flow_difference(*b.shown(), ("stage_1", "stage_3")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "fsp must have equal channels, got 8 at the student's stage 0 and 16"),
        ({"teacher": "cnn_tiny", "stages": ((1, 1),)}, "fsp must have two pairs of stages or more"),
        ({"teacher": "cnn_tiny", "stages": ((1, 1), (9, 3))}, "fsp.stages must be pairs"),
    ],
)
def test_what_it_cannot_compare_is_one_clear_error(bench, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        bench("fsp", **settings)
    assert "\n" not in str(error.value)
