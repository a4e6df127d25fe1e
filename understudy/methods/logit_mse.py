"""Logit regression: mean squared difference of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from understudy.interface import Batch, Outputs
from understudy.losses.logit_mse import logit_mse_loss
from understudy.methods.logits import logit_pair
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitMSE(Method):
    """Mean over batch and classes of the squared difference of the logits."""

    paper: ClassVar[str] = "Ba and Caruana, Do Deep Nets Really Need to be Deep?, NeurIPS 2014"

    standardise: bool = False

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns mean (z_s - z_t)²."""
        return logit_mse_loss(*logit_pair(student, teacher, self.standardise))
