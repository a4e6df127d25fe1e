"""OFD's connector of one stage, with the margin of the teacher's silent responses."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.losses.ofd import ofd_margin


class MarginConnector(nn.Module):
    """1×1 convolution without bias and batch norm; beside them the margin, a buffer saved with the run.

    Args:
        in_channels: of the student's map in front of the activation.
        norm: the teacher's batch norm in front of the activation; its scale and shift give the margin, once.

    Raises:
        ValueError: the batch norm has no scale and shift.

    Shape:
        ``(B, C_s, H, W)`` -> ``(B, C_t, H, W)``; margin: ``(C_t,)``.

    Reference: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, section 3; the
    convolution is drawn from N(0, 2/(k²·out)) as in the authors' code.
    """

    margin: Tensor

    def __init__(self, in_channels: int, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        if not norm.affine:
            raise ValueError(
                "the teacher's batch norm must have a scale and a shift to take the margin from, got one with "
                "affine=False. Name another in the config, e.g. taps: {norm_1: PATH}"
            )
        convolution = nn.Conv2d(in_channels, norm.num_features, 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.connect = nn.Sequential(convolution, nn.BatchNorm2d(norm.num_features))
        self.register_buffer("margin", ofd_margin(norm.weight, norm.bias))

    def forward(self, feature: Tensor) -> Tensor:
        """Returns the student's map in the teacher's channels."""
        return self.connect(feature)
