"""ResNet for small images: three stages, 6n + 2 layers (resnet8 to resnet110 and their wider kin)."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.models.initialisation import init_convolutions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``(B, width, H / stride, W / stride)``, rounded up, from 0 up."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.downsample(x))


class ResNet(nn.Module):
    """He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.

    Deviations, all of the distillation literature's zoo: shortcuts that change the shape are 1x1 convolutions
    with batch norm (the paper pads with zeros there), and ``x4`` widens the stem to 32 besides the stages to
    64, 128, 256.

    Args:
        depth: 6n + 2, n blocks a stage.
        widths: channels of the stem and of the three stages.
        num_classes: length of the logits.
        in_channels: of the images.

    Raises:
        ValueError: ``depth`` is not 6n + 2.
    """

    def __init__(
        self, depth: int, widths: tuple[int, int, int, int], *, num_classes: int = 100, in_channels: int = 3
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6 != 0:
            raise ValueError(f"depth must be 6n + 2 with n from 1 up, got {depth}. Take 8, 14, 20, 32, ...")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of ``images`` ``(B, in_channels, H, W)``."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x).flatten(1))


def _stage(in_width: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_width, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))
