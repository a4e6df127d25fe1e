"""VID's regressor: mean and variance of the teacher's map, given the student's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

INITIAL_VARIANCE = 5.0


class VariationalRegressor(nn.Module):
    """Three 1×1 convolutions without biases for the mean, one trained number a channel for the variance.

    The variance of a channel is ``softplus(log_scale) + eps`` and starts at 5. It is a parameter: a released
    version keeps it in a plain list, where it is neither trained nor saved.

    Args:
        in_channels: of the student's map.
        out_channels: of the teacher's.
        eps: smallest variance, as in :func:`understudy.losses.vid_loss`.

    Shape:
        ``(B, C_s, H, W)`` -> ``(B, C_t, H, W)``; log_scale: ``(C_t,)``.

    Reference: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019, section 2.2;
    layers as in the code with which the published CIFAR-100 tables were made.
    """

    def __init__(self, in_channels: int, out_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
        )
        start = math.log(math.expm1(INITIAL_VARIANCE - eps))  # the inverse of softplus
        self.log_scale = nn.Parameter(torch.full((out_channels,), start))

    def forward(self, feature: Tensor) -> Tensor:
        """Returns the predicted mean of the teacher's map."""
        return self.mean(feature)
