"""The dino-loss of KD++: direction and norm of the student's feature against the teacher's class means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from understudy.interface import NonNegative, Outputs, Search
from understudy.losses.dino import dino
from understudy.methods.means import ClassMeansMethod


@dataclass(frozen=True, slots=True, kw_only=True)
class Dino(ClassMeansMethod):
    """Turns the feature towards its class's mean under the teacher and makes it at least as long as the teacher's."""

    paper: ClassVar[str] = (
        "Wang et al., Improving Knowledge Distillation via Regularizing Feature Direction and Norm, ECCV 2024"
    )
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature",)

    teacher_norm_scale: Annotated[NonNegative, Search(0.5, 2.0)] = 1.0

    def against(self, feature: Tensor, teacher: Outputs, means: Tensor, target: Tensor) -> Tensor:
        """Returns the mean of 1 - <f_s, e_y>/max(‖f_s‖, scale·‖f_t‖)."""
        return dino(feature, teacher["feature"], means, target, self.teacher_norm_scale, self.class_balanced)
