import torch
from torch import nn

from understudy.heads.means import ClassMeans
from understudy.interface import Batch
from understudy.methods.cosine import CosineDirection
from understudy.methods.dino import Dino

TARGET = torch.tensor([0, 0, 0, 2, 1, 1])


def parts():
    heads = nn.ModuleDict({"project": nn.Identity(), "means": ClassMeans(3, 4, torch.randn(3, 4))})
    return (
        {"feature": torch.randn(6, 4)},
        {"feature": torch.randn(6, 4)},
        Batch(torch.zeros(0), TARGET),
        heads,
    )


def test_it_is_the_dino_loss_without_the_teachers_norm():
    given = parts()
    for balanced in (False, True):
        loss = CosineDirection(class_balanced=balanced).loss(*given)
        torch.testing.assert_close(loss, Dino(teacher_norm_scale=0.0, class_balanced=balanced).loss(*given))


def test_the_norm_of_the_feature_does_not_matter():
    student, *rest = parts()
    longer = {"feature": torch.linspace(0.1, 9, 6)[:, None] * student["feature"]}
    torch.testing.assert_close(CosineDirection().loss(longer, *rest), CosineDirection().loss(student, *rest))
