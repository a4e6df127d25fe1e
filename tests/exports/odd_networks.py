"""Networks that train but cannot be exported, one reason each; the tests name them in configs."""

import torch
from torch import nn


class Bessel(nn.Module):
    """Holds an operator that ONNX lacks."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.fc = nn.Linear(64 * in_channels, num_classes)

    def forward(self, images):
        return self.fc(torch.special.bessel_j0(images.flatten(1)))


class Fixed(Bessel):
    """Takes two images, no more and no fewer."""

    def forward(self, images):
        return self.fc(images.reshape(2, -1))


class Branching(Bessel):
    """Does one thing or another, depending on the values of the images."""

    def forward(self, images):
        return self.fc(images.flatten(1)) if images.sum() > 0 else self.fc(-images.flatten(1))
