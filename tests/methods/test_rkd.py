import torch

from understudy.losses import rkd_loss
from understudy.methods.rkd import RKD


def test_the_weights_reach_the_loss_of_features_of_different_widths():
    student, teacher = torch.randn(6, 5), torch.randn(6, 9)
    loss = RKD(distance_weight=1.0, angle_weight=0.5).loss(
        {"feature": student}, {"feature": teacher}, None, None
    )
    assert torch.equal(loss, rkd_loss(student, teacher, distance_weight=1.0, angle_weight=0.5))


def test_each_part_can_be_switched_off():
    shown = {"feature": torch.randn(6, 5)}, {"feature": torch.randn(6, 9)}, None, None
    distances = RKD(angle_weight=0.0).loss(*shown)
    angles = RKD(distance_weight=0.0).loss(*shown)
    assert min(distances, angles) > 0
    torch.testing.assert_close(RKD().loss(*shown), distances + angles)
