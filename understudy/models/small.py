"""Two plain networks for digits, demos and tests: quick on a CPU, three stages, from 8x8 pixels up."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.models.initialisation import init_convolutions


class CNN(nn.Module):
    """A stem and three stages, each a 3x3 convolution, batch norm and ReLU; the last two halve the map.

    Ours, of no paper.

    Args:
        widths: channels of the stem and of the three stages.
        num_classes: length of the logits.
        in_channels: of the images.
    """

    def __init__(
        self, widths: tuple[int, int, int, int], *, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.stem = _conv_bn_relu(in_channels, widths[0], stride=1)
        self.stage1 = _conv_bn_relu(widths[0], widths[1], stride=1)
        self.stage2 = _conv_bn_relu(widths[1], widths[2], stride=2)
        self.stage3 = _conv_bn_relu(widths[2], widths[3], stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of ``images`` ``(B, in_channels, H, W)``."""
        x = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return self.fc(self.pool(x).flatten(1))


def _conv_bn_relu(in_width: int, width: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
