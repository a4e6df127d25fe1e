"""KD-SVD: how the main directions of the channels change from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from understudy.heads.shapes import map_shape
from understudy.interface import Batch, Outputs, Setup
from understudy.losses.kdsvd import kdsvd_loss
from understudy.methods.method import Method
from understudy.methods.stages import Stages, paired_maps, resolve_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class KDSVD(Method):
    """Singular vectors of each stage's map, and how they move between consecutive stages; equal channels only."""

    paper: ClassVar[str] = (
        "Lee, Kim and Song, Self-supervised Knowledge Distillation Using Singular Value Decomposition, ECCV 2018"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("stage_*",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_*",)

    k: Annotated[int, Ge(1)] = 1
    """How many of the teacher's singular vectors are matched."""
    stages: Stages | None = None
    """Two or more pairs (student, teacher) of stages; all paired stages by default."""

    def resolved(self, setup: Setup) -> KDSVD:
        """Returns the same with the stages decided.

        Raises:
            ValueError: fewer than two pairs, or channels that differ within one.
        """
        stages = resolve_stages(self.stages, setup, "kdsvd")
        if len(stages) < 2:
            raise ValueError(
                f"kdsvd.stages must hold at least two pairs, got {stages}. Add a pair, or take another method"
            )
        for s, t in stages:
            ours, theirs = (
                map_shape(network, f"stage_{k}")[0] for network, k in ((setup.student, s), (setup.guide, t))
            )
            if ours != theirs:
                raise ValueError(
                    f"kdsvd must have equal channels in each pair of stages, got {ours} in the student's stage_{s} and "
                    f"{theirs} in the teacher's stage_{t}. Choose a teacher of the same width, or another method"
                )
        return replace(self, stages=stages)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the squared difference of the movements, summed over consecutive stages."""
        return kdsvd_loss(*paired_maps(student, teacher, self.stages), self.k)
