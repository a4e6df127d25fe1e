import torch

import understudy as us
from understudy.losses import nst_loss
from understudy.methods.nst import NST

SHOWN = {f"stage_{k}": torch.randn(4, 3 * k, 16 // k, 16 // k).relu() for k in (1, 2, 4)}
TOKENS = {"stage_1": torch.randn(4, 17, 6), "stage_2": torch.randn(4, 17, 6)}


def test_the_stages_named_are_the_ones_compared():
    loss = NST(stages=((1, 2), (4, 1))).loss(SHOWN, SHOWN, None, None)
    student, teacher = ([SHOWN[f"stage_{k}"] for k in side] for side in ((1, 4), (2, 1)))
    assert torch.equal(loss, nst_loss(student, teacher))


def test_tokens_are_read_as_maps():
    loss = NST(stages=((4, 2),)).loss(SHOWN, TOKENS, None, None)
    grid = TOKENS["stage_2"][:, 1:].mT.reshape(4, 6, 4, 4)
    assert torch.equal(loss, nst_loss([SHOWN["stage_4"]], [grid]))


def test_all_paired_stages_are_the_default():
    student, teacher = us.create_model("cnn_tiny", 10), us.create_model("resnet8", 10)
    assert us.Distiller(student, teacher, [{"name": "nst"}]).terms[0].method.stages == (
        (1, 1),
        (2, 2),
        (3, 3),
    )
