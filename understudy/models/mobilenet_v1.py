"""MobileNet-V1, the ImageNet student of the distillation papers, which torchvision does not have."""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1),
    (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
"""(channels, stride) of the 13 depthwise-separable blocks."""


class MobileNetV1(nn.Module):
    """Howard et al., MobileNets, 2017, table 1; 4.2 M parameters at 1000 classes, for images of 224 pixels.

    PyTorch's own initialisation, as the distillation papers' code leaves it. Global pooling is adaptive, so
    other sizes work too.

    Args:
        num_classes: length of the logits.
        in_channels: of the images.
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Sequential(
                nn.Conv2d(in_channels, 32, 3, 2, padding=1, bias=False),
                nn.BatchNorm2d(32),
                nn.ReLU(inplace=True),
            )
        ]
        in_width = 32
        for width, stride in BLOCKS:
            layers.append(_separable(in_width, width, stride))
            in_width = width
        self.model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(in_width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of ``images`` ``(B, in_channels, H, W)``."""
        return self.fc(self.model(images).flatten(1))


def _separable(in_width: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, in_width, 3, stride, padding=1, groups=in_width, bias=False),
        nn.BatchNorm2d(in_width),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
