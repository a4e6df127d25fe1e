"""ReviewKD's attention-based fusion: shallow levels see what the deeper ones know."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int]


class FusionBlock(nn.Module):
    """One level: the student's map, mixed by a learned gate with what comes from the level below.

    Args:
        in_channels: of the student's map.
        mid_channels: of what is passed on from level to level.
        out_channels: of the teacher's map.
        fuse: whether anything comes from a deeper level.

    Reference: Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021, figure 3 (ABF), with the layers
    and the initialisation of the authors' code.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, fuse: bool) -> None:
        super().__init__()
        self.narrow = _conv_bn(in_channels, mid_channels, kernel=1)
        self.gate = nn.Conv2d(2 * mid_channels, 2, 1) if fuse else None
        self.out = _conv_bn(mid_channels, out_channels, kernel=3)

    def forward(self, feature: Tensor, deeper: Tensor | None, size: Size) -> tuple[Tensor, Tensor]:
        """Returns what is compared with the teacher, and what is passed on to the next shallower level.

        Args:
            feature: the student's map.
            deeper: what the deeper level passed on, ``None`` for the deepest.
            size: height and width of the teacher's map.

        Shape:
            feature: ``(B, in, H, W)``; deeper: ``(B, mid, h, w)``; output: ``(B, out, *size)`` and
            ``(B, mid, *size)``.
        """
        x = self.narrow(feature)
        if self.gate is not None:
            assert deeper is not None
            y = _resized(deeper, (x.shape[2], x.shape[3]))
            gates = self.gate(torch.cat((x, y), dim=1)).sigmoid()  # (B, 2, H, W)
            x = x * gates[:, :1] + y * gates[:, 1:]
        x = _resized(x, size)
        return self.out(x), x


class Review(nn.Module):
    """Fusion blocks from the deepest level to the shallowest; all lists are in that order.

    Args:
        student_channels: of the student's levels.
        teacher_channels: of the teacher's.
        mid_channels: of what is passed on.
    """

    def __init__(
        self, student_channels: Sequence[int], teacher_channels: Sequence[int], mid_channels: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            FusionBlock(in_channels, mid_channels, out_channels, fuse=level > 0)
            for level, (in_channels, out_channels) in enumerate(
                zip(student_channels, teacher_channels, strict=True)
            )
        )

    def forward(self, features: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Returns, for each level, a map of the teacher's shape.

        Args:
            features: the student's maps ``(B, C_s, H, W)``.
            sizes: height and width of the teacher's maps.
        """
        outputs: list[Tensor] = []
        passed: Tensor | None = None
        for block, feature, size in zip(self.blocks, features, sizes, strict=True):
            output, passed = block(feature, passed, size)
            outputs.append(output)
        return outputs


def _conv_bn(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _resized(x: Tensor, size: Size) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size=size, mode="nearest")
