"""DIST: correlations of probabilities instead of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from understudy.interface import Batch, NonNegative, Outputs, Search, Temperature
from understudy.losses.dist import dist_loss
from understudy.methods.logits import logit_pair
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class DIST(Method):
    """Pearson correlation of both networks' probabilities, between the classes and within each class.

    The published temperature is 1 on ImageNet and 4 on CIFAR-100.
    """

    paper: ClassVar[str] = "Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022"

    beta: Annotated[NonNegative, Search(0.25, 4.0)] = 1.0
    gamma: Annotated[NonNegative, Search(0.25, 4.0)] = 1.0
    temperature: Temperature = 4.0
    standardise: bool = False

    @property
    def one_class(self) -> bool:
        """It reads a softmax over the classes."""
        return True

    @property
    def relates_samples(self) -> bool:
        """With the correlation of columns, which runs over the samples."""
        return self.gamma > 0

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns T² (beta·(1 - correlation of rows) + gamma·(1 - correlation of columns))."""
        logits = logit_pair(student, teacher, self.standardise)
        return dist_loss(*logits, self.beta, self.gamma, self.temperature)
