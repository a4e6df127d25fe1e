import torch

from understudy.losses import sp_loss
from understudy.methods.sp import SP


def test_the_last_maps_are_compared_whatever_their_form():
    image, tokens = torch.randn(6, 4, 3, 3), torch.randn(6, 7, 5)  # 7 tokens form no grid, and need none
    loss = SP().loss({"stage_last": image}, {"stage_last": tokens}, None, None)
    assert torch.equal(loss, sp_loss(image, tokens))
