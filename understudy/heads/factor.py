"""Factor transfer's two networks: the teacher's paraphraser and the student's translator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1
"""Of every LeakyReLU."""


class Paraphraser(nn.Module):
    """Frozen encoder of the teacher's last map; knows whether it has been trained.

    Args:
        channels: C, of the teacher's map.

    Shape:
        ``(B, C, H, W)`` -> ``(B, C / 2, H, W)``, rounded down.

    Reference: Kim, Park and Kwak, Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS
    2018, section 3.1, with factors half as wide as the map.
    """

    trained: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        widths = (channels, channels, factor_width(channels), factor_width(channels))
        self.encoder = _layers(widths, nn.Conv2d).requires_grad_(False)
        self.register_buffer("trained", torch.zeros((), dtype=torch.bool))
        self.ready = False  # the same as `trained`, on the host: reading a buffer would synchronise

    def forward(self, feature: Tensor) -> Tensor:
        """Returns the factor.

        Raises:
            ValueError: it has not been trained.
        """
        if not self.ready:
            raise ValueError(
                "factor transfer must have a trained paraphraser, got a new one. "
                "Call distiller.prepare(loader) before training"
            )
        return self.encoder(feature)

    def fit(
        self, epochs: Callable[[], Iterable[Tensor]], *, num_epochs: int, learning_rate: float
    ) -> list[float]:
        """Trains the encoder with a decoder of transposed convolutions that is thrown away, and freezes it.

        Plain SGD with momentum .9 and weight decay 5e-4, on the mean squared error of the reconstruction.

        Args:
            epochs: called once an epoch for the teacher's maps ``(B, C, H, W)``.
            num_epochs: how often.
            learning_rate: constant.

        Returns:
            the mean error of each epoch (of its batches).

        Raises:
            ValueError: an epoch has no maps, or the error is no longer finite.
        """
        factor, place = factor_width(self.channels), next(self.encoder.parameters())
        decoder = _layers((factor, factor, self.channels, self.channels), nn.ConvTranspose2d)
        decoder.to(device=place.device, dtype=place.dtype)
        self.encoder.requires_grad_(True)
        optimizer = torch.optim.SGD(
            [*self.encoder.parameters(), *decoder.parameters()],
            learning_rate,
            momentum=0.9,
            weight_decay=5e-4,
        )
        errors: list[float] = []
        for epoch in range(1, num_epochs + 1):
            losses: list[Tensor] = []
            for feature in epochs():
                loss = F.mse_loss(decoder(self.encoder(feature)), feature)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            errors.append(_mean_error(losses, epoch))
        self.encoder.requires_grad_(False)
        for parameter in self.encoder.parameters():
            parameter.grad = None
        self.trained.fill_(True)
        self.ready = True
        return errors

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.ready = bool(self.trained)


def translator(in_channels: int, teacher_channels: int) -> nn.Sequential:
    """Returns the student's side: as wide as the paraphraser's factor, each layer with a batch norm.

    Args:
        in_channels: of the student's last map.
        teacher_channels: of the teacher's.

    Shape:
        ``(B, C_s, H, W)`` -> ``(B, C_t / 2, H, W)``, rounded down.
    """
    factor = factor_width(teacher_channels)
    return _layers((in_channels, in_channels, factor, factor), nn.Conv2d, norm=True)


def factor_width(channels: int) -> int:
    """Returns the channels of a factor: half of the teacher's, at least one."""
    return max(channels // 2, 1)


def _layers(
    widths: tuple[int, ...], kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], *, norm: bool = False
) -> nn.Sequential:
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        modules.append(kind(before, after, 3, padding=1))
        modules += [nn.BatchNorm2d(after)] if norm else []
        modules.append(nn.LeakyReLU(SLOPE, inplace=True))
    return nn.Sequential(*modules)


def _mean_error(losses: list[Tensor], epoch: int) -> float:
    if not losses:
        raise ValueError(
            f"the paraphraser must see the training images in every epoch, got none in epoch {epoch}. "
            "Give batches that can be iterated again and again, such as a list or a loader"
        )
    error = float(torch.stack(losses).mean())
    if not error < float("inf"):
        raise ValueError(
            f"the paraphraser's error must stay finite, got {error} in epoch {epoch}. Lower paraphraser_lr"
        )
    return error
