"""DKD: the KL divergence of KD taken apart into target-class and non-target-class parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from understudy.interface import NonNegative, Outputs, Search, Temperature
from understudy.losses.dkd import dkd, nckd, tckd
from understudy.methods.logits import LogitMethod, logit_pair

_PAPER = "Zhao et al., Decoupled Knowledge Distillation, CVPR 2022"


@dataclass(frozen=True, slots=True, kw_only=True)
class DKD(LogitMethod):
    """alpha·TCKD + beta·NCKD; beta follows the teacher's confidence (`suggest_dkd_beta`)."""

    paper: ClassVar[str] = _PAPER
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    alpha: Annotated[NonNegative, Search(0.25, 4.0)] = 1.0
    beta: Annotated[NonNegative, Search(0.5, 16.0)] = 8.0
    temperature: Temperature = 4.0
    standardise: bool = False

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns alpha·TCKD + beta·NCKD."""
        logits = logit_pair(student, teacher, self.standardise)
        return dkd(*logits, target, self.alpha, self.beta, self.temperature, "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class TCKD(LogitMethod):
    """The binary part of DKD alone: how sure the teacher is of the target class."""

    paper: ClassVar[str] = f"{_PAPER}, section 3.2"
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    temperature: Temperature = 4.0
    standardise: bool = False

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns TCKD."""
        return tckd(*logit_pair(student, teacher, self.standardise), target, self.temperature, "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class NCKD(LogitMethod):
    """The part of DKD among the non-target classes alone: the dark knowledge."""

    paper: ClassVar[str] = f"{_PAPER}, section 3.2"
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    temperature: Temperature = 4.0
    standardise: bool = False

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns NCKD."""
        return nckd(*logit_pair(student, teacher, self.standardise), target, self.temperature, "none")
