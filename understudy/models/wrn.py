"""Wide ResNet: three stages of pre-activation blocks, 6n + 4 layers, k times as wide."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from understudy.models.initialisation import init_classifier, init_convolutions


class PreActivationBlock(nn.Module):
    """Twice batch norm, ReLU, 3x3 convolution; the sum at the end passes through no activation.

    Where the shape changes, the shortcut starts behind the first ReLU, not before the batch norm.
    """

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut = (  # the published checkpoints' name
            nn.Conv2d(in_width, width, 1, stride, bias=False) if in_width != width else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``(B, width, H / stride, W / stride)``, rounded up, of either sign."""
        active = self.relu1(self.bn1(x))
        residual = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return residual + (x if self.convShortcut is None else self.convShortcut(active))


class WideResNet(nn.Module):
    """Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016, table 1, without dropout.

    A stage's last activation lies in the block that follows it (``block2.layer.0.relu1``), the third stage's
    is ``relu``.

    Args:
        depth: 6n + 4, n blocks a stage.
        widen: k, the stages' widths in units of 16, 32, 64.
        num_classes: length of the logits.
        in_channels: of the images.

    Raises:
        ValueError: ``depth`` is not 6n + 4.
    """

    def __init__(self, depth: int, widen: int, *, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 != 0:
            raise ValueError(
                f"depth must be 6n + 4 with n from 1 up, got {depth}. Take 10, 16, 22, 28, 40, ..."
            )
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = _stage(16, 16 * widen, blocks, stride=1)
        self.block2 = _stage(16 * widen, 32 * widen, blocks, stride=2)
        self.block3 = _stage(32 * widen, 64 * widen, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * widen, num_classes)
        init_convolutions(self)
        init_classifier(self.fc)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of ``images`` ``(B, in_channels, H, W)``."""
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        x = self.relu(self.bn1(x))
        return self.fc(self.pool(x).flatten(1))


def _stage(in_width: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_width, width, stride)
    layer = nn.Sequential(first, *(PreActivationBlock(width, width, 1) for _ in range(blocks - 1)))
    return nn.Sequential(OrderedDict(layer=layer))  # one level more, for the published checkpoints' keys
