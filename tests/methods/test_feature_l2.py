import pytest
import torch

import understudy as us
from understudy.interface import Batch
from understudy.losses import feature_l2_loss
from understudy.methods.feature_l2 import FeatureL2


def build(student, teacher, **settings):
    models = us.create_model(student, 10), us.create_model(teacher, 10)
    return us.Distiller(*models, [{"name": "feature_l2", **settings}], example=torch.zeros(2, 3, 16, 16))


def test_equal_widths_need_no_projector():
    heads = build("resnet8", "resnet14").heads["feature_l2"]
    assert list(heads.parameters()) == []


@pytest.mark.parametrize(
    ("kind", "layers", "parameters"),
    [
        ("released", ["BatchNorm1d", "Dropout", "Linear"], 2 * 24 + 24 * 64 + 64),
        ("paper", ["Linear", "BatchNorm1d"], 24 * 64 + 64 + 2 * 64),
    ],
)
def test_different_widths_get_the_projector_of_choice(kind, layers, parameters):
    heads = build("cnn_tiny", "resnet8", projector=kind).heads["feature_l2"]
    assert [type(layer).__name__ for layer in heads["project"]] == layers
    assert sum(p.numel() for p in heads.parameters()) == parameters


def test_balance_and_labels_reach_the_loss():
    student, teacher, target = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([0, 0, 0, 0, 1, 2])
    heads, batch = torch.nn.ModuleDict({"project": torch.nn.Identity()}), Batch(torch.zeros(0), target)
    for balanced in (False, True):
        loss = FeatureL2(class_balanced=balanced).loss(
            {"feature": student}, {"feature": teacher}, batch, heads
        )
        assert torch.equal(loss, feature_l2_loss(student, teacher, target, class_balanced=balanced))
