"""Which methods make sense where an image may have several classes, and what is counted."""

import pytest
import torch

import understudy as us
from understudy.methods import METHODS
from understudy.tasks import TASKS

TASK = TASKS["multilabel"]
ONE_CLASS = {"ce", "cosine", "crd", "dino", "dist", "dkd", "dml", "dual_head_kd", "infonce", "kd", "nckd",
             "tckd", "ttm", "wsld", "wttm"}  # fmt: skip
BOXES = {"fgfi"}


def test_methods_that_presume_one_class_are_refused_and_no_others():
    refused = {name for name, method in METHODS.items() if TASK.objection(method()) is not None}
    assert refused == ONE_CLASS | BOXES
    assert TASK.objection(METHODS["dhkd"](head_loss="kd")) is not None
    assert TASK.objection(METHODS["feature_l2"](class_balanced=True)) is not None


def networks():
    torch.manual_seed(0)
    return us.create_model("cnn_tiny", 3), us.create_model("cnn_small", 3)


def test_the_refusal_names_the_term_and_what_to_use():
    with pytest.raises(ValueError, match=r"term 'kd' must not presume one class.* Use bce"):
        us.Distiller(*networks(), [{"name": "bce"}, {"name": "kd"}], multilabel=True)


@pytest.mark.parametrize(
    "target", [torch.zeros(4, dtype=torch.int64), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 3)]
)
def test_other_targets_are_one_line(target):
    distiller = us.Distiller(*networks(), [{"name": "bce"}], multilabel=True)
    with pytest.raises(ValueError, match=r"whole numbers of shape \(B, 3\)"):
        distiller(torch.rand(4, 3, 32, 32), target)


def test_a_plain_loop_learns_several_classes():
    torch.manual_seed(1)
    target = torch.randint(0, 2, (32, 3))
    images = 0.1 * torch.randn(32, 3, 32, 32) + target.float()[:, :, None, None]
    distiller = us.Distiller(
        *networks(),
        [{"name": "bce"}, {"name": "dhkd"}, {"name": "binary_kl", "weight": 0.1}],
        multilabel=True,
    )
    optimizer = torch.optim.AdamW(distiller.trainable_parameters(), lr=0.01)
    first = None
    for _ in range(30):
        out = distiller(images, target)
        first = float(out.terms["bce"].detach()) if first is None else first
        distiller.backward(out)
        optimizer.step()
        optimizer.zero_grad()
    assert float(out.terms["bce"].detach()) < 0.5 * first


def test_images_without_labels_teach_what_needs_none():
    distiller = us.Distiller(*networks(), [{"name": "binary_kl"}], multilabel=True)
    assert float(distiller(torch.rand(4, 3, 32, 32), None).loss.detach()) > 0


def test_pixels_have_one_class_each():
    with pytest.raises(ValueError, match="multilabel must be left out for segmentation"):
        us.Distiller(us.create_model("fcn_tiny", 3), None, [{"name": "bce"}], multilabel=True)


def test_right_decisions_are_counted_of_what_is_known():
    tally = TASK.tally(2, torch.device("cpu"))
    tally.add(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 0], [0, -1]]))
    right, judged, found = tally.judged()
    assert (int(right), int(judged), found.tolist()) == (2, 3, [2, 0])
    assert tally.scores() == {"f1": pytest.approx(100 * 2 / 3)}
