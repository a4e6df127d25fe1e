"""InfoNCE: the student's feature nearer to its class's mean than to any other class's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from understudy.heads.projector import Projector, student_projector
from understudy.interface import Batch, Outputs, Setup
from understudy.losses.direction import infonce_direction
from understudy.methods.means import MeansSource, class_means, class_means_head, fill_class_means
from understudy.methods.method import Method, TeacherPass


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoNCEDirection(Method):
    """Cross-entropy of the cosines to all class means against the label; there is no temperature."""

    paper: ClassVar[str] = (
        "Wang et al., Improving Knowledge Distillation via Regularizing Feature Direction and Norm, ECCV 2024, Eq. 2"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    prepare_taps: ClassVar[tuple[str, ...]] = ("feature",)
    uses_labels: ClassVar[bool] = True
    suits_boxes: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

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
        """Returns the mean cross-entropy of cos(f_s, c_k)."""
        feature = heads["project"](student["feature"])
        means = class_means(heads)()
        return batch.over_labels(
            lambda target: infonce_direction(feature, means, target, self.class_balanced)
        )
