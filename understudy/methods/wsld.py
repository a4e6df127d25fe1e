"""WSLD: soft labels count for a sample as far as the student lags behind on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from understudy.interface import Outputs, Temperature
from understudy.losses.wsld import wsld
from understudy.methods.logits import LogitMethod


@dataclass(frozen=True, slots=True, kw_only=True)
class WSLD(LogitMethod):
    """Tempered soft cross-entropy, each sample weighted by the ratio of both networks' own cross-entropies.

    The published temperature is 2 on ImageNet and 4 on CIFAR-100. Logits cannot be standardised here: the weights
    compare the cross-entropies of the probabilities both networks really answer with.
    """

    paper: ClassVar[str] = (
        "Zhou et al., Rethinking Soft Labels for Knowledge Distillation: "
        "A Bias-Variance Tradeoff Perspective, ICLR 2021"
    )
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    temperature: Temperature = 4.0

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns T² w_i·CE(p_t(T), p_s(T))."""
        return wsld(student["logits"], teacher["logits"], target, self.temperature, "none")
