"""TTM and WTTM: the teacher is tempered, the student is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from understudy.interface import Outputs, Positive, Search
from understudy.losses.ttm import ttm_loss, wttm_loss
from understudy.methods.logits import LogitMethod

_PAPER = "Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024"


@dataclass(frozen=True, slots=True, kw_only=True)
class TTM(LogitMethod):
    """KL divergence from a power of the teacher's probabilities to the student's plain ones.

    Logits cannot be standardised here: the point is that the probabilities the student is deployed with are the ones
    that are matched.
    """

    paper: ClassVar[str] = _PAPER

    gamma: Annotated[Positive, Search(0.05, 0.5)] = 0.1

    @property
    def one_class(self) -> bool:
        """It reads a softmax over the classes."""
        return True

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns KL(p_t^γ normalised ‖ p_s)."""
        return ttm_loss(student["logits"], teacher["logits"], self.gamma, "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class WTTM(LogitMethod):
    """TTM in which a sample weighs the more, the less certain the teacher is of it."""

    paper: ClassVar[str] = _PAPER

    gamma: Annotated[Positive, Search(0.05, 0.5)] = 0.2

    @property
    def one_class(self) -> bool:
        """It reads a softmax over the classes."""
        return True

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns Σ p_t^γ · KL(p_t^γ normalised ‖ p_s)."""
        return wttm_loss(student["logits"], teacher["logits"], self.gamma, "none")
