"""KD: the teacher's tempered probabilities on the student's own head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from understudy.interface import Outputs, Temperature
from understudy.losses.kd import kd_loss
from understudy.methods.logits import LogitMethod, logit_pair


@dataclass(frozen=True, slots=True, kw_only=True)
class KD(LogitMethod):
    """Tempered KL divergence from the teacher's softmax to the student's."""

    paper: ClassVar[str] = "Hinton et al., Distilling the Knowledge in a Neural Network, 2015"

    temperature: Temperature = 4.0
    standardise: bool = False

    @property
    def one_class(self) -> bool:
        """It reads a softmax over the classes."""
        return True

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns T² KL(p_t ‖ p_s)."""
        return kd_loss(*logit_pair(student, teacher, self.standardise), self.temperature, "none")
