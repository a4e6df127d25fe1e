import math

import pytest
import torch
from torch import nn

from understudy.heads import map_connector

LAYERS = {
    "1x1": [(24, 64, 1)],
    "1x1-1x1": [(24, 64, 1), (64, 64, 1)],
    "1x1-3x3-1x1": [(24, 32, 1), (32, 32, 3), (32, 64, 1)],
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_layers_are_those_of_its_name(kind):
    connector = map_connector(kind, 24, 64)
    convolutions = [m for m in connector if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in convolutions] == LAYERS[kind]
    assert all(m.bias is None for m in convolutions)
    assert [type(m) for m in connector] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * len(convolutions)
    assert connector(torch.randn(2, 24, 7, 5)).shape == (2, 64, 7, 5)


def test_fan_out_draws_the_convolutions_as_srrl_does():
    torch.manual_seed(0)
    connector = map_connector("1x1-3x3-1x1", 128, 128, init="fan_out")
    for m in connector:
        if isinstance(m, nn.Conv2d):
            expected = math.sqrt(2 / (m.kernel_size[0] ** 2 * m.out_channels))
            assert m.weight.std().item() == pytest.approx(expected, rel=0.05)
            assert abs(m.weight.mean().item()) < 0.05 * expected
