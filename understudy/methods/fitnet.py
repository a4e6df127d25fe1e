"""FitNet: a hint in the middle, through a regressor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from understudy.heads.regressor import hint_regressor
from understudy.heads.shapes import map_shape
from understudy.interface import Batch, Outputs, Setup
from understudy.losses.hint import hint_loss
from understudy.losses.shapes import pool_larger
from understudy.methods.method import Method
from understudy.methods.stages import Stages, paired_maps, resolve_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class FitNet(Method):
    """Squared difference of the regressed student map and the teacher's, at the second pair of stages.

    The published weight is 100, beside cross-entropy: one stage of training, as in the code with which the tables
    were made. The paper's two stages (the hint alone, then KD) are the same terms on a schedule::

        losses:
          - {name: fitnet, weight: {value: 100, until_epoch: 40}}
          - {name: ce, weight: {value: 0.1, from_epoch: 41}}
          - {name: kd, weight: {value: 0.9, from_epoch: 41}}

    While the hint is alone, no gradient reaches what lies behind the hinted stage.
    """

    paper: ClassVar[str] = "Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015"
    student_taps: ClassVar[tuple[str, ...]] = ("stage_*",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_*",)

    stages: Stages | None = None
    """Pairs (student, teacher) of stages; the second pair by default, the only one where there is one."""

    def resolved(self, setup: Setup) -> FitNet:
        """Returns the same with the stages decided."""
        return replace(self, stages=self._stages(setup))

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns a regressor a pair."""
        return nn.ModuleDict(
            {
                f"stage_{s}_{t}": hint_regressor(
                    map_shape(setup.student, f"stage_{s}"), map_shape(setup.guide, f"stage_{t}")
                )
                for s, t in self._stages(setup)
            }
        )

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean squared difference, summed over the pairs."""
        pairs = zip(heads.values(), *paired_maps(student, teacher, self.stages), strict=True)
        return torch.stack([hint_loss(*pool_larger(regress(s), t)) for regress, s, t in pairs]).sum()

    def _stages(self, setup: Setup) -> Stages:
        pairs = resolve_stages(self.stages, setup, "fitnet")
        return pairs if self.stages is not None else pairs[:2][-1:]
