"""MobileNet-V2 for small images: the half-width student of the distillation papers."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.models.initialisation import init_classifier, init_convolutions

GROUPS = (
    # channels at full width, blocks, stride of the first
    (16, 1, 1),
    (24, 2, 1),
    (32, 3, 2),
    (64, 4, 2),
    (96, 3, 1),
    (160, 3, 2),
    (320, 1, 1),
)
LAST_WIDTH = 1280


class InvertedResidual(nn.Module):
    """Widening 1x1, depthwise 3x3, narrowing 1x1 convolution; no activation at the narrow end."""

    def __init__(self, in_width: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_width * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(in_width, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.has_shortcut = stride == 1 and in_width == width

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``(B, width, H / stride, W / stride)``, rounded up, of either sign."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, table 2.

    Deviations, the distillation literature's: the second group keeps its resolution; ReLU instead of ReLU6;
    the first block widens by 1 through a 1x1 convolution of its own; no dropout; widths are cut, not rounded
    to multiples of 8.

    Args:
        expansion: how many times wider a block is inside (the paper's t).
        width: share of the full number of channels; the last 1280 stay for shares below 1.
        num_classes: length of the logits.
        in_channels: of the images.
    """

    def __init__(self, expansion: int, width: float, *, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        in_width = int(32 * width)
        self.conv1 = _conv_bn_relu(in_channels, in_width, kernel=3, stride=2)
        self.blocks = nn.Sequential()
        for number, (full, blocks, stride) in enumerate(GROUPS):
            out_width, group = int(full * width), nn.Sequential()
            for k in range(blocks):
                wider = 1 if number == 0 else expansion
                group.append(InvertedResidual(in_width, out_width, stride if k == 0 else 1, wider))
                in_width = out_width
            self.blocks.append(group)
        last_width = int(LAST_WIDTH * max(width, 1.0))
        self.conv2 = _conv_bn_relu(in_width, last_width, kernel=1, stride=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        head = nn.Linear(last_width, num_classes)
        self.classifier = nn.Sequential(head)  # one level more, for the published checkpoints' keys
        init_convolutions(self)
        init_classifier(head, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of ``images`` ``(B, in_channels, H, W)``."""
        x = self.conv2(self.blocks(self.conv1(images)))
        return self.classifier(self.pool(x).flatten(1))


def _conv_bn_relu(in_width: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_width, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
