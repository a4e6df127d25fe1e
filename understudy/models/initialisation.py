"""How the CIFAR networks of the distillation papers are initialised."""

from __future__ import annotations

from torch import nn


def init_convolutions(net: nn.Module) -> None:
    """Draws every convolution from N(0, 2 / (k² · out)) and zeroes its bias.

    The spread keeps the variance of the *gradient* from layer to layer (fan-out mode). Batch norm needs
    nothing here: PyTorch starts it at weight 1 and bias 0, as the papers do.

    Reference: He et al., Delving Deep into Rectifiers, ICCV 2015, section 2.2 (backward case).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(head: nn.Linear, std: float | None = None) -> None:
    """Zeroes the classifier's bias and, if ``std`` is given, draws its weight from N(0, std²)."""
    nn.init.zeros_(head.bias)
    if std is not None:
        nn.init.normal_(head.weight, std=std)
