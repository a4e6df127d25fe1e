"""ReviewKD: shallow stages of the student learn with what its deep ones know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from understudy.heads.fusion import Review
from understudy.heads.shapes import map_shape
from understudy.heads.tokens import as_map
from understudy.interface import Batch, Outputs, Setup
from understudy.losses.hcl import hcl_loss
from understudy.methods.method import Method
from understudy.methods.stages import Place, Stages, resolve_stages

MID_CHANNELS = 512
"""Most channels that are passed from level to level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewKD(Method):
    """Hierarchical context loss between fused student maps and the teacher's, pooled feature to first stage.

    Of a detector it is the pyramid's levels alone, all of the pyramid's channels; published weights are 1.0 to 2.0.

    The teacher is read before its activations. On CIFAR-100 the student is read after them, on ImageNet before
    (``student_maps: preact``). Published weights depend on the pair, with a ramp of 20 epochs on CIFAR-100.
    """

    paper: ClassVar[str] = "Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021"
    suits_boxes: ClassVar[bool] = True
    student_taps: ClassVar[tuple[str, ...]] = ("feature", "stage_*", "preact_*")
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature", "preact_*")

    student_maps: Place = "stage"
    """Whether the student's stages are read after or before their last activation."""
    max_mid_channels: Annotated[int, Ge(1)] = MID_CHANNELS
    """Upper bound of the channels passed on, which are otherwise those of the student's feature, at most 512."""
    stages: Stages | None = None
    """Pairs (student, teacher) of stages; all paired stages by default."""

    @property
    def student_roles(self) -> tuple[str, ...]:
        """The pooled feature, and the stages where ``student_maps`` says."""
        return ("feature", f"{self.student_maps}_*")

    def resolved(self, setup: Setup) -> ReviewKD:
        """Returns the same with the stages decided."""
        return replace(
            self, stages=resolve_stages(self.stages, setup, "reviewkd", place=(self.student_maps, "preact"))
        )

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the fusion blocks, deepest first."""
        pairs = resolve_stages(self.stages, setup, "reviewkd", place=(self.student_maps, "preact"))[::-1]
        ours = [map_shape(setup.student, f"{self.student_maps}_{s}")[0] for s, _ in pairs]
        theirs = [map_shape(setup.guide, f"preact_{t}")[0] for _, t in pairs]
        if not setup.student.detects:
            ours.insert(0, setup.student.classifier.in_features)
            theirs.insert(0, setup.guide.classifier.in_features)
        return nn.ModuleDict(
            {"review": Review(ours, theirs, min(MID_CHANNELS, self.max_mid_channels, ours[0]))}
        )

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the hierarchical context loss, summed over the levels."""
        if self.stages is None:
            raise ValueError(
                "reviewkd must know its stages, got none. Use what method.resolved(setup) returns"
            )
        ours = [as_map(student[f"{self.student_maps}_{s}"]) for s, _ in self.stages]
        theirs = [as_map(teacher[f"preact_{t}"]) for _, t in self.stages]
        features, goals, review = ours[::-1], theirs[::-1], heads["review"]
        assert isinstance(review, Review)
        if len(review.blocks) > len(goals):  # the pooled features, as 1×1 maps; a pyramid has none
            features.insert(0, student["feature"][:, :, None, None])
            goals.insert(0, teacher["feature"][:, :, None, None])
        return hcl_loss(review(features, [(g.shape[2], g.shape[3]) for g in goals]), goals)
