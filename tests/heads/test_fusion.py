import pytest
import torch
from torch import nn

from understudy.heads import FusionBlock, Review


def test_only_a_fusing_block_has_a_gate():
    assert FusionBlock(3, 4, 5, fuse=False).gate is None
    gate = FusionBlock(3, 4, 5, fuse=True).gate
    assert (gate.in_channels, gate.out_channels, gate.bias is not None) == (8, 2, True)


def test_output_and_residual_have_the_teachers_size():
    block = FusionBlock(3, 4, 5, fuse=True)
    output, passed = block(torch.randn(2, 3, 8, 8), torch.randn(2, 4, 2, 2), (6, 6))
    assert output.shape == (2, 5, 6, 6)
    assert passed.shape == (2, 4, 6, 6)


def test_maps_need_not_be_square():
    block = FusionBlock(3, 4, 5, fuse=True)
    output, passed = block(torch.randn(2, 3, 8, 4), torch.randn(2, 4, 4, 2), (6, 3))
    assert output.shape == (2, 5, 6, 3)
    assert passed.shape == (2, 4, 6, 3)


def test_the_convolutions_are_uniform_as_in_the_authors_code():
    torch.manual_seed(0)
    block = FusionBlock(64, 64, 64, fuse=False)
    for convolution in (block.narrow[0], block.out[0]):
        bound = (3 / (64 * convolution.kernel_size[0] ** 2)) ** 0.5  # kaiming uniform with a = 1
        assert convolution.bias is None
        assert convolution.weight.abs().max().item() == pytest.approx(bound, rel=0.01)


def test_deep_levels_reach_the_shallow_outputs_and_not_the_reverse():
    torch.manual_seed(0)
    review = Review([6, 5, 4], [7, 8, 9], 4).eval()
    features = [torch.randn(2, c, h, h, requires_grad=True) for c, h in ((6, 1), (5, 4), (4, 8))]
    outputs = review(features, [(1, 1), (4, 4), (8, 8)])
    assert [tuple(o.shape[1:]) for o in outputs] == [(7, 1, 1), (8, 4, 4), (9, 8, 8)]
    reached = torch.autograd.grad(outputs[2].sum(), features, retain_graph=True, allow_unused=True)
    assert all(g is not None and g.any() for g in reached)
    reached = torch.autograd.grad(outputs[0].sum(), features, allow_unused=True)
    assert [g is not None for g in reached] == [True, False, False]


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        Review([6, 5], [7], 4)
    assert isinstance(Review([6], [7], 4).blocks, nn.ModuleList)
