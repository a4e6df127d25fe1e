"""The dino-loss of KD++: direction and norm of the student's feature against the teacher's class means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from understudy.heads.means import ClassMeans, mean_features
from understudy.heads.projector import feature_projector
from understudy.interface import Batch, NonNegative, Outputs, Setup
from understudy.losses.dino import dino
from understudy.methods.method import Method, TeacherPass


@dataclass(frozen=True, slots=True, kw_only=True)
class Dino(Method):
    """Turns the feature towards its class's mean under the teacher and makes it at least as long as the teacher's."""

    paper: ClassVar[str] = (
        "Wang et al., Improving Knowledge Distillation via Regularizing Feature Direction and Norm, ECCV 2024"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature",)
    uses_labels: ClassVar[bool] = True

    teacher_norm_scale: NonNegative = 1.0
    class_balanced: bool = False
    projector: Literal["released", "paper"] = "released"

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the projector (the identity for equal widths) and the teacher's class means."""
        student, teacher = setup.student.classifier.in_features, setup.guide.classifier.in_features
        return nn.ModuleDict(
            {
                "project": feature_projector(student, teacher, self.projector),
                "means": ClassMeans(setup.num_classes, teacher, setup.class_means),
            }
        )

    def needs_prepare(self, heads: nn.ModuleDict) -> bool:
        """Returns whether the class means are still missing."""
        return not class_means(heads).ready

    def prepare(
        self, setup: Setup, heads: nn.ModuleDict, batches: Iterable[Batch], teacher: TeacherPass
    ) -> None:
        """Averages the teacher's feature over each class, images as they are (METHODS.md section 4)."""
        features = ((teacher(batch)["feature"], batch.target) for batch in batches)
        class_means(heads).fill(
            mean_features(features, setup.num_classes, setup.guide.classifier.in_features)
        )

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean of 1 - <f_s, e_y>/max(‖f_s‖, scale·‖f_t‖)."""
        return dino(
            heads["project"](student["feature"]),
            teacher["feature"],
            class_means(heads)(),
            batch.target,
            self.teacher_norm_scale,
            self.class_balanced,
        )


def class_means(heads: nn.ModuleDict) -> ClassMeans:
    """Returns the term's class means, for the type checker's eyes too."""
    means = heads["means"]
    assert isinstance(means, ClassMeans)
    return means
