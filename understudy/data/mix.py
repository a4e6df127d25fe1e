"""Mixup and CutMix: two images of one global batch in one, and how much of each is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import betaincinv
from torch import Tensor

from understudy.data.counter import Stream, random_bits, uniform

_SHARE, _WHETHER, _ROW, _COLUMN, _PARTNER = range(5)  # what a number of a step is for


@dataclass(frozen=True, slots=True)
class Mix:
    r"""Mixes every image of a step with a partner out of the same global batch; one share and one box a step.

    Mixup: :math:`\lambda x + (1-\lambda) x'`. CutMix: a box of :math:`x'` in the same place of :math:`x`, whose sides
    are :math:`\sqrt{1-\lambda}` of the image's, clipped at its rim; what counts is the share of the pixels then left.
    :math:`\lambda \sim` Beta(alpha, alpha). Partners are a permutation of the batch; an image may be its own.

    Everything is drawn from ``(seed, epoch, step)``, over the batch of all processes, so that their number changes
    nothing.

    Reference: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018; Yun et al., CutMix, ICCV 2019. As in
        their code, one share serves a whole batch.
    """

    name: Literal["mixup", "cutmix"] = "mixup"
    alpha: float = 1.0
    probability: float = 1.0
    """Share of the steps in which images are mixed at all."""

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"mix.alpha must be above 0, got {self.alpha}. 0.2 and 1 are usual")
        if not 0 < self.probability <= 1:
            raise ValueError(
                f"mix.probability must lie in (0, 1], got {self.probability}. 1 mixes every step"
            )

    def partners(self, seed: int, epoch: int, step: int, count: int) -> Tensor:
        """Returns for each place in a global batch of so many images the place of its partner, int64 ``(count,)``."""
        return random_bits(seed, Stream.MIX, epoch, step, _PARTNER, torch.arange(count)).argsort(stable=True)

    def kept(self, seed: int, epoch: int, step: int, height: int, width: int) -> float:
        """Returns the share of each image that stays its own in a step, 0 to 1; 1 where nothing is mixed."""
        if self._draw(seed, epoch, step, _WHETHER) >= self.probability:
            return 1.0
        if self.name == "mixup":
            return self._share(seed, epoch, step)
        top, bottom, left, right = self.box(seed, epoch, step, height, width)
        return 1.0 - (bottom - top) * (right - left) / (height * width)

    def box(self, seed: int, epoch: int, step: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Returns first and last row, first and last column of CutMix's box, the last ones excluded."""
        side = (1.0 - self._share(seed, epoch, step)) ** 0.5
        y, x = (
            int(size * self._draw(seed, epoch, step, part))
            for size, part in ((height, _ROW), (width, _COLUMN))
        )
        h, w = int(height * side) // 2, int(width * side) // 2
        return max(y - h, 0), min(y + h, height), max(x - w, 0), min(x + w, width)

    def __call__(self, images: Tensor, partners: Tensor, seed: int, epoch: int, step: int) -> Tensor:
        """Returns the mixed images of a step.

        Args:
            images: normalised (mixing before normalisation would be the same), ``(B, C, H, W)``.
            partners: likewise, each image's partner.
            seed: of the data.
            epoch: from 0.
            step: likewise.
        """
        height, width = images.shape[2:]
        kept = self.kept(seed, epoch, step, height, width)
        if kept == 1.0:
            return images
        if self.name == "mixup":
            return kept * images + (1 - kept) * partners
        top, bottom, left, right = self.box(seed, epoch, step, height, width)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed

    def _share(self, seed: int, epoch: int, step: int) -> float:
        return float(betaincinv(self.alpha, self.alpha, self._draw(seed, epoch, step, _SHARE)))

    def _draw(self, seed: int, epoch: int, step: int, part: int) -> float:
        return float(uniform(seed, Stream.MIX, epoch, step, part))
