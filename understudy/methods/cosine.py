"""Cosine: the direction of the student's feature against its class's mean, norms left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from understudy.interface import Outputs
from understudy.losses.direction import cosine_direction
from understudy.methods.means import ClassMeansMethod


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineDirection(ClassMeansMethod):
    """One minus the cosine between the feature and the teacher's mean of its class."""

    paper: ClassVar[str] = (
        "Wang et al., Improving Knowledge Distillation via Regularizing Feature Direction and Norm, ECCV 2024, Eq. 1"
    )
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    prepare_taps: ClassVar[tuple[str, ...]] = ("feature",)

    def against(self, feature: Tensor, teacher: Outputs, means: Tensor, target: Tensor) -> Tensor:
        """Returns the mean of 1 - cos(f_s, c_y)."""
        return cosine_direction(feature, means, target, self.class_balanced)
