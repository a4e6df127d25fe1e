"""Feature L2: the plain distance of the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from understudy.heads.projector import Projector, student_projector
from understudy.interface import Batch, Outputs, Setup
from understudy.losses.direction import feature_l2
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureL2(Method):
    """Squared distance of student's and teacher's feature, summed over the width."""

    paper: ClassVar[str] = (
        "Wang et al., Improving Knowledge Distillation via Regularizing Feature Direction and Norm, ECCV 2024, Eq. 3"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature",)
    suits_boxes: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    class_balanced: bool = False
    projector: Projector = "released"

    @property
    def uses_labels(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] (a setting decides)
        """With balance."""
        return self.class_balanced

    @property
    def relates_samples(self) -> bool:
        """With balance: what a sample weighs depends on how many share its class."""
        return self.class_balanced

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the projector (the identity for equal widths)."""
        return nn.ModuleDict({"project": student_projector(setup, self.projector)})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean of ‖f_s - f_t‖²."""
        feature = heads["project"](student["feature"])
        if not self.class_balanced:
            return feature_l2(feature, teacher["feature"])
        return batch.over_labels(lambda target: feature_l2(feature, teacher["feature"], target, True))
