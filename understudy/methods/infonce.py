"""InfoNCE: the student's feature nearer to its class's mean than to any other class's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from understudy.interface import Outputs
from understudy.losses.direction import infonce_direction
from understudy.methods.means import ClassMeansMethod


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoNCEDirection(ClassMeansMethod):
    """Cross-entropy of the cosines to all class means against the label; there is no temperature."""

    paper: ClassVar[str] = (
        "Wang et al., Improving Knowledge Distillation via Regularizing Feature Direction and Norm, ECCV 2024, Eq. 2"
    )
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    prepare_taps: ClassVar[tuple[str, ...]] = ("feature",)

    def against(self, feature: Tensor, teacher: Outputs, means: Tensor, target: Tensor) -> Tensor:
        """Returns the mean cross-entropy of cos(f_s, c_k)."""
        return infonce_direction(feature, means, target, self.class_balanced)
