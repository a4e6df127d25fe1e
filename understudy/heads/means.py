"""The teacher's mean feature of every class, as a module that is saved with the run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from understudy.widest import widen, widest


class ClassMeans(nn.Module):
    """Keeps ``(C, D)`` class means; knows whether they have been filled."""

    means: Tensor
    filled: Tensor

    def __init__(self, num_classes: int, width: int, means: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_classes, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.bool))
        self.ready = False  # the same as `filled`, on the host: reading a buffer would synchronise
        if means is not None:
            self.fill(means)

    def fill(self, means: Tensor) -> None:
        """Takes given means.

        Raises:
            ValueError: their shape is not ``(C, D)``.
        """
        if means.shape != self.means.shape:
            raise ValueError(
                f"class means must have shape {tuple(self.means.shape)} (classes, teacher's feature width), "
                f"got {tuple(means.shape)}. Compute them with the teacher of this run"
            )
        with torch.no_grad():
            self.means.copy_(means)
            self.filled.fill_(True)
        self.ready = True

    def forward(self) -> Tensor:
        """Returns the means ``(C, D)``.

        Raises:
            ValueError: they have not been filled.
        """
        if not self.ready:
            raise ValueError(
                "this term must know the teacher's class means, got none. "
                "Pass class_means= or call distiller.prepare(loader) before training"
            )
        return self.means

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # noqa: ANN002, ANN003 (torch's own signature)
        super()._load_from_state_dict(*args, **kwargs)
        self.ready = bool(self.filled)


def mean_features(features: Iterable[tuple[Tensor, Tensor]], num_classes: int, width: int) -> Tensor:
    """Returns the mean feature of every class in one streaming pass; a class without images gets a zero row.

    Args:
        features: pairs of feature ``(B, D)`` and target ``(B,)``.
        num_classes: C.
        width: D.

    Returns:
        ``(C, D)`` float32; sums and counts are kept in the widest type.
    """
    total, count = torch.zeros(num_classes, width), torch.zeros(num_classes, 1)
    for feature, target in features:
        total, count = (x.to(feature.device, widest(feature.device)) for x in (total, count))
        total.index_add_(0, target, widen(feature))
        count.index_add_(0, target, count.new_ones(len(target), 1))
    return (total / count.clamp(min=1)).to(torch.float32)
