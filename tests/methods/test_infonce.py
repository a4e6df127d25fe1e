import math

import torch
from torch import nn

from understudy.heads.means import ClassMeans
from understudy.interface import Batch
from understudy.losses import infonce_direction_loss
from understudy.methods.infonce import InfoNCEDirection

TARGET = torch.tensor([0, 0, 0, 2, 1, 1])


def heads_of(means):
    return nn.ModuleDict({"project": nn.Identity(), "means": ClassMeans(*means.shape, means)})


def test_means_labels_and_balance_reach_the_loss():
    student, means = torch.randn(6, 4), torch.randn(3, 4)
    batch = Batch(torch.zeros(0), TARGET)
    for balanced in (False, True):
        loss = InfoNCEDirection(class_balanced=balanced).loss(
            {"feature": student}, {}, batch, heads_of(means)
        )
        assert torch.equal(loss, infonce_direction_loss(student, means, TARGET, class_balanced=balanced))


def test_the_cosines_are_not_tempered():
    batch = Batch(torch.zeros(0), torch.tensor([0]))
    loss = InfoNCEDirection().loss({"feature": torch.tensor([[7.0, 0.0]])}, {}, batch, heads_of(torch.eye(2)))
    torch.testing.assert_close(float(loss), math.log(1 + math.exp(-1)), rtol=1e-6, atol=0)
