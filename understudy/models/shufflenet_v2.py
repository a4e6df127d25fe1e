"""ShuffleNet-V2 for small images: the full-width (1x) student of the distillation papers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.models.channel_shuffle import ChannelShuffle

STEM_WIDTH = 24


class SplitUnit(nn.Module):
    """Half of the channels pass, the others go through 1x1, depthwise 3x3, 1x1 convolution; all are shuffled.

    The last ReLU stands behind concatenation and shuffle instead of on the convolved half alone. The values
    and gradients are the same, for the half that passes has been through a ReLU already, and the unit ends in
    one activation whose input is the whole map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = ChannelShuffle(2)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns a map of the shape of ``x`` ``(B, width, H, W)``, from 0 up if ``x`` is."""
        passed, convolved = x.chunk(2, dim=1)
        convolved = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(convolved)))))
        convolved = self.bn3(self.conv3(convolved))
        return self.relu2(self.shuffle(torch.cat((passed, convolved), dim=1)))


class DownUnit(nn.Module):
    """Two branches of stride 2, concatenated and shuffled; the last ReLU as in :class:`SplitUnit`."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(in_width, in_width, 3, 2, padding=1, groups=in_width, bias=False)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.shuffle = ChannelShuffle(2)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``(B, width, H / 2, W / 2)``, rounded up, from 0 up."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(self.relu1(self.bn3(self.conv3(x)))))
        right = self.bn5(self.conv5(right))
        return self.relu2(self.shuffle(torch.cat((left, right), dim=1)))


class ShuffleNetV2(nn.Module):
    """Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018.

    Deviation, the distillation literature's: the stem is one 1x1 convolution of stride 1 without max-pool.
    PyTorch's own initialisation.

    Args:
        widths: channels of the three stages and of the last convolution.
        blocks: split units in each stage, the down unit not counted.
        num_classes: length of the logits.
        in_channels: of the images.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int],
        blocks: tuple[int, int, int],
        *,
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.relu1 = nn.ReLU(inplace=True)
        self.layer1 = _stage(STEM_WIDTH, widths[0], blocks[0])
        self.layer2 = _stage(widths[0], widths[1], blocks[1])
        self.layer3 = _stage(widths[1], widths[2], blocks[2])
        self.conv2 = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.relu2 = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[3], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of ``images`` ``(B, in_channels, H, W)``."""
        x = self.relu1(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(self.pool(x).flatten(1))


def _stage(in_width: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(in_width, width), *(SplitUnit(width) for _ in range(blocks)))
