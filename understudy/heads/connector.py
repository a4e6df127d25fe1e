"""The connector in front of the teacher's classifier: the student's last map in the teacher's channels."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import nn

ConnectorKind: TypeAlias = Literal["1x1", "1x1-1x1", "1x1-3x3-1x1"]


def map_connector(
    kind: ConnectorKind, in_channels: int, out_channels: int, init: Literal["default", "fan_out"] = "default"
) -> nn.Sequential:
    """Returns convolutions without bias, each with batch norm and ReLU.

    Args:
        kind: ``1x1`` goes straight to the teacher's channels, ``1x1-1x1`` has a second layer there,
            ``1x1-3x3-1x1`` is a bottleneck at half of them.
        in_channels: of the student's last map.
        out_channels: of the teacher's.
        init: ``fan_out`` draws the convolutions from N(0, 2/(k²·out)) (SRRL), ``default`` is PyTorch's.

    Shape:
        ``(B, C_s, H, W)`` -> ``(B, C_t, H, W)``.

    Reference: ``1x1`` Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, ICLR
    2021, and IJCKD on CIFAR; ``1x1-3x3-1x1`` Chen et al., Knowledge Distillation with the Reused Teacher
    Classifier, CVPR 2022, section 3.2, with reduction 2. The inner width of ``1x1-1x1`` is unpublished; the
    teacher's is our choice.
    """
    half = max(out_channels // 2, 1)
    layers: dict[ConnectorKind, tuple[tuple[int, int, int], ...]] = {  # input, output, kernel
        "1x1": ((in_channels, out_channels, 1),),
        "1x1-1x1": ((in_channels, out_channels, 1), (out_channels, out_channels, 1)),
        "1x1-3x3-1x1": ((in_channels, half, 1), (half, half, 3), (half, out_channels, 1)),
    }
    modules: list[nn.Module] = []
    for before, after, kernel in layers[kind]:
        convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
        if init == "fan_out":
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        modules += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)
