"""FGFI's adapter: a level of the student's pyramid in the teacher's channels."""

from __future__ import annotations

from torch import nn

_STD = 1e-4


def adapter(in_channels: int, out_channels: int) -> nn.Sequential:
    """Returns a 3×3 convolution and ReLU, drawn from a normal distribution cut at two standard deviations of 1e-4.

    Args:
        in_channels: of the student's level.
        out_channels: of the teacher's.

    Shape:
        ``(B, in, H, W)`` -> ``(B, out, H, W)``.

    Reference: Wang et al., Distilling Object Detectors with Fine-grained Feature Imitation, CVPR 2019, section 3.3,
    with the initialisation of the authors' code.
    """
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.trunc_normal_(convolution.weight, std=_STD, a=-2 * _STD, b=2 * _STD)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.ReLU(inplace=True))
