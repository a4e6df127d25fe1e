"""VGG for small images, with batch norm and one linear layer as classifier (vgg8 to vgg19)."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.models.initialisation import init_classifier, init_convolutions

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five blocks; they differ between the depths only in how many convolutions they hold."""
LAST_POOL_FROM = 8
"""Pixels a side from which the map before the last block is halved too."""


class VGG(nn.Module):
    """Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1, with batch norm.

    Deviations, the distillation literature's: the three fully connected layers are one, behind global average
    pooling; ``vgg8`` has one convolution a block; the map in front of the last block is pooled only where the
    image is large enough (of 64 pixels, not of 32: the published code asks for exactly 64, we for a map of at
    least 8).

    Args:
        convolutions: how many in each block.
        num_classes: length of the logits.
        in_channels: of the images.
    """

    def __init__(
        self, convolutions: tuple[int, int, int, int, int], *, num_classes: int = 100, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.block0 = _block(in_channels, WIDTHS[0], convolutions[0])
        self.pool0 = nn.MaxPool2d(2)
        self.block1 = _block(WIDTHS[0], WIDTHS[1], convolutions[1])
        self.pool1 = nn.MaxPool2d(2)
        self.block2 = _block(WIDTHS[1], WIDTHS[2], convolutions[2])
        self.pool2 = nn.MaxPool2d(2)
        self.block3 = _block(WIDTHS[2], WIDTHS[3], convolutions[3])
        self.pool3 = nn.MaxPool2d(2)
        self.block4 = _block(WIDTHS[3], WIDTHS[4], convolutions[4])
        self.pool4 = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        init_convolutions(self)
        init_classifier(self.classifier, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of ``images`` ``(B, in_channels, H, W)``, 8x8 at least."""
        x = self.pool0(self.block0(images))
        x = self.pool1(self.block1(x))
        x = self.pool2(self.block2(x))
        x = self.block3(x)
        if min(x.shape[-2:]) >= LAST_POOL_FROM:
            x = self.pool3(x)
        x = self.block4(x)
        return self.classifier(self.pool4(x).flatten(1))


def _block(in_width: int, width: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k in range(convolutions):
        convolution = nn.Conv2d(in_width if k == 0 else width, width, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
