"""NST: the distribution of the channels' patterns, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from understudy.interface import Batch, Outputs, Setup
from understudy.losses.nst import nst_loss
from understudy.methods.method import Method
from understudy.methods.stages import Stages, paired_maps, resolve_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class NST(Method):
    """Maximum mean discrepancy between the channels of paired stages; channels and sizes may differ."""

    paper: ClassVar[str] = (
        "Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("stage_*",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_*",)

    stages: Stages | None = None
    """Pairs (student, teacher) of stages; all paired stages by default."""

    def resolved(self, setup: Setup) -> NST:
        """Returns the same with the stages decided."""
        return replace(self, stages=resolve_stages(self.stages, setup, "nst"))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the discrepancies summed over the stages."""
        return nst_loss(*paired_maps(student, teacher, self.stages))
