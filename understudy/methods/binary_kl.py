"""BinaryKL and BinaryKL-Norm: one sigmoid a class, on the student's own head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from understudy.interface import Outputs, Temperature
from understudy.losses.binary_kl import binary_kl_loss, binary_kl_norm_loss
from understudy.methods.logits import LogitMethod, logit_pair

_PAPER = "Yang et al., Dual-Head Knowledge Distillation"


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryKL(LogitMethod):
    """A Bernoulli KL divergence for every class between sigmoids of the logits.

    With cross-entropy on the same head the paper reports collapse for weights above .1 (App. A); `dhkd` gives the
    loss a head of its own.
    """

    paper: ClassVar[str] = f"{_PAPER}, Eq. 1"

    temperature: Temperature = 2.0
    standardise: bool = False

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns τ² Σ KL(σ(z_t/τ) ‖ σ(z_s/τ))."""
        return binary_kl_loss(*logit_pair(student, teacher, self.standardise), self.temperature, "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryKLNorm(LogitMethod):
    """τ² Σ log cosh of half the tempered logit difference: bounded gradient, finite for every logit."""

    paper: ClassVar[str] = f"{_PAPER}, Eq. 5"

    temperature: Temperature = 2.0
    standardise: bool = False

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns τ² Σ log cosh((z_s - z_t)/2τ)."""
        return binary_kl_norm_loss(*logit_pair(student, teacher, self.standardise), self.temperature, "none")
