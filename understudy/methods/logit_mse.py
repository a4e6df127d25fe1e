"""Logit regression: mean squared difference of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from understudy.interface import Outputs
from understudy.losses.logit_mse import logit_mse_loss
from understudy.methods.logits import LogitMethod, logit_pair


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitMSE(LogitMethod):
    """Mean over batch and classes of the squared difference of the logits."""

    paper: ClassVar[str] = "Ba and Caruana, Do Deep Nets Really Need to be Deep?, NeurIPS 2014"

    standardise: bool = False

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns (z_s - z_t)², averaged over the classes."""
        return logit_mse_loss(*logit_pair(student, teacher, self.standardise), "none")
