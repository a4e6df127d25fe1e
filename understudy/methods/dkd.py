"""DKD: the KL divergence of KD taken apart into target-class and non-target-class parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from understudy.interface import Batch, NonNegative, Outputs, Search, Temperature
from understudy.losses.dkd import dkd, nckd, tckd
from understudy.methods.logits import logit_pair
from understudy.methods.method import Method

_PAPER = "Zhao et al., Decoupled Knowledge Distillation, CVPR 2022"


@dataclass(frozen=True, slots=True, kw_only=True)
class DKD(Method):
    """alpha·TCKD + beta·NCKD; beta follows the teacher's confidence (`suggest_dkd_beta`)."""

    paper: ClassVar[str] = _PAPER
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    alpha: Annotated[NonNegative, Search(0.25, 4.0)] = 1.0
    beta: Annotated[NonNegative, Search(0.5, 16.0)] = 8.0
    temperature: Temperature = 4.0
    standardise: bool = False

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns alpha·TCKD + beta·NCKD."""
        logits = logit_pair(student, teacher, self.standardise)
        return batch.over_labels(lambda target: dkd(*logits, target, self.alpha, self.beta, self.temperature))


@dataclass(frozen=True, slots=True, kw_only=True)
class TCKD(Method):
    """The binary part of DKD alone: how sure the teacher is of the target class."""

    paper: ClassVar[str] = f"{_PAPER}, section 3.2"
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    temperature: Temperature = 4.0
    standardise: bool = False

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns TCKD."""
        logits = logit_pair(student, teacher, self.standardise)
        return batch.over_labels(lambda target: tckd(*logits, target, self.temperature))


@dataclass(frozen=True, slots=True, kw_only=True)
class NCKD(Method):
    """The part of DKD among the non-target classes alone: the dark knowledge."""

    paper: ClassVar[str] = f"{_PAPER}, section 3.2"
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    temperature: Temperature = 4.0
    standardise: bool = False

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns NCKD."""
        logits = logit_pair(student, teacher, self.standardise)
        return batch.over_labels(lambda target: nckd(*logits, target, self.temperature))
