"""FSP: how the channels of one stage go with those of the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from understudy.heads.shapes import map_shape
from understudy.interface import Batch, Outputs, Setup
from understudy.losses.fsp import fsp_loss
from understudy.methods.method import Method
from understudy.methods.stages import Stages, paired_maps, resolve_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class FSP(Method):
    """Squared difference of the flow matrices of consecutive stages, the stem the first; channels must be equal.

    A first stage of training, of this loss alone (published weight 50), then cross-entropy::

        losses:
          - {name: fsp, weight: {value: 50, until_epoch: 30}}
          - {name: ce, weight: {value: 1, from_epoch: 31}}
    """

    paper: ClassVar[str] = "Yim et al., A Gift from Knowledge Distillation, CVPR 2017"
    student_taps: ClassVar[tuple[str, ...]] = ("stage_0", "stage_*")
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_0", "stage_*")

    stages: Stages | None = None
    """Pairs (student, teacher) of stages, two or more; by default the stem, (0, 0), and all paired stages."""

    def resolved(self, setup: Setup) -> FSP:
        """Returns the same with the stages decided."""
        return replace(self, stages=resolve_stages(self.stages, setup, "fsp", stem=True))

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns nothing: the method has no extras.

        Raises:
            ValueError: there are fewer than two pairs, or a pair has different channels.
        """
        pairs = resolve_stages(self.stages, setup, "fsp", stem=True)
        if len(pairs) < 2:
            raise ValueError(f"fsp must have two pairs of stages or more, got {pairs}. Add the stem, (0, 0)")
        for s, t in pairs:
            ours, theirs = map_shape(setup.student, f"stage_{s}")[0], map_shape(setup.guide, f"stage_{t}")[0]
            if ours != theirs:
                raise ValueError(
                    f"fsp must have equal channels, got {ours} at the student's stage {s} and {theirs} at the "
                    f"teacher's stage {t}. Choose a teacher of the same width, or another method"
                )
        return nn.ModuleDict()

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean squared differences, summed over consecutive pairs."""
        return fsp_loss(*paired_maps(student, teacher, self.stages))
