import torch

from understudy.losses import pkt_loss
from understudy.methods.pkt import PKT


def test_features_of_different_widths_are_compared_by_their_neighbourhoods():
    student, teacher = torch.randn(6, 5), torch.randn(6, 9)
    loss = PKT(eps=1e-3).loss({"feature": student}, {"feature": teacher}, None, None)
    assert torch.equal(loss, pkt_loss(student, teacher, eps=1e-3))
    rotated = PKT().loss({"feature": student}, {"feature": 2 * student.flip(1)}, None, None)
    assert rotated.abs() < 1e-6
