"""ShuffleNet-V1 for small images: the three-group student of the distillation papers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.models.channel_shuffle import ChannelShuffle

STEM_WIDTH = 24


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1 convolution.

    A unit of stride 1 adds its input; one of stride 2 appends its pooled input as further channels.
    """

    def __init__(self, in_width: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        narrow = width // 4
        first_groups = 1 if in_width == STEM_WIDTH else groups  # the stem is too narrow to be grouped
        self.conv1 = nn.Conv2d(in_width, narrow, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.relu1 = nn.ReLU(inplace=True)
        self.shuffle = ChannelShuffle(first_groups)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, groups=narrow, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(narrow, width, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``(B, width, H, W)``, for stride 2 ``(B, width + in_width, H / 2, W / 2)``, from 0 up."""
        narrow = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        residual = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(narrow)))))
        return self.relu3(residual + x if self.pool is None else torch.cat((residual, self.pool(x)), dim=1))


class ShuffleNetV1(nn.Module):
    """Zhang et al., ShuffleNet, CVPR 2018, table 1.

    Deviations, the distillation literature's: the stem is one 1x1 convolution of stride 1 without max-pool,
    and a ReLU follows the depthwise convolution. PyTorch's own initialisation.

    Args:
        widths: channels of the three stages.
        blocks: units in each stage.
        groups: of the 1x1 convolutions.
        num_classes: length of the logits.
        in_channels: of the images.
    """

    def __init__(
        self,
        widths: tuple[int, int, int],
        blocks: tuple[int, int, int],
        groups: int,
        *,
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(STEM_WIDTH, widths[0], blocks[0], groups)
        self.layer2 = _stage(widths[0], widths[1], blocks[1], groups)
        self.layer3 = _stage(widths[1], widths[2], blocks[2], groups)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of ``images`` ``(B, in_channels, H, W)``."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x).flatten(1))


def _stage(in_width: int, width: int, blocks: int, groups: int) -> nn.Sequential:
    first = ShuffleUnit(
        in_width, width - in_width, 2, groups
    )  # its pooled input brings the other in_width channels
    return nn.Sequential(first, *(ShuffleUnit(width, width, 1, groups) for _ in range(blocks - 1)))
