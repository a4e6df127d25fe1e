"""The dino-loss of KD++: direction and norm of the student's feature against the teacher's class means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from understudy.heads.projector import Projector, student_projector
from understudy.interface import Batch, NonNegative, Outputs, Search, Setup
from understudy.losses.dino import dino
from understudy.methods.means import MeansSource, class_means, class_means_head, fill_class_means
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
    suits_boxes: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    teacher_norm_scale: Annotated[NonNegative, Search(0.5, 2.0)] = 1.0
    class_balanced: bool = False
    projector: Projector = "released"
    means: MeansSource = "class_means"
    correct_only: bool = False
    """Whether images that the teacher gets wrong are left out of the class means."""
    class_means_augment: bool = False
    """Whether the class means are of images as the first epoch shows them, and rounded to four decimals, as the
    released code has them."""

    @property
    def relates_samples(self) -> bool:
        """With balance: what a sample weighs depends on how many share its class."""
        return self.class_balanced

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the projector (the identity for equal widths) and the teacher's class means."""
        return nn.ModuleDict(
            {
                "project": student_projector(setup, self.projector),
                "means": class_means_head(setup, self.means),
            }
        )

    def needs_prepare(self, heads: nn.ModuleDict) -> bool:
        """Returns whether the class means are still missing."""
        return not class_means(heads).ready

    @property
    def prepares_augmented(self) -> bool:
        """As ``class_means_augment`` says."""
        return self.class_means_augment

    def prepare(
        self, setup: Setup, heads: nn.ModuleDict, batches: Iterable[Batch], teacher: TeacherPass
    ) -> None:
        """Fills the class means from the teacher's features."""
        decimals = 4 if self.class_means_augment else None
        fill_class_means(setup, heads, batches, teacher, correct_only=self.correct_only, decimals=decimals)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean of 1 - <f_s, e_y>/max(‖f_s‖, scale·‖f_t‖)."""
        feature, means = heads["project"](student["feature"]), class_means(heads)()
        settings = self.teacher_norm_scale, self.class_balanced
        return batch.over_labels(lambda target: dino(feature, teacher["feature"], means, target, *settings))
