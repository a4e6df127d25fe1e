"""VID: the likelihood of the teacher's maps under what the student's predict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from understudy.heads.shapes import map_shape
from understudy.heads.variational import VariationalRegressor
from understudy.interface import Batch, Outputs, Positive, Setup
from understudy.losses.shapes import pool_larger
from understudy.losses.vid import vid_loss
from understudy.methods.method import Method
from understudy.methods.stages import Stages, paired_maps, resolve_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class VID(Method):
    """Gaussian log-likelihood with a trained mean and one trained variance a channel; the larger map is pooled first.

    The published weight is 1.
    """

    paper: ClassVar[str] = (
        "Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("stage_*",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_*",)

    eps: Positive = 1e-5
    """Smallest variance."""
    stages: Stages | None = None
    """Pairs (student, teacher) of stages; all paired stages by default."""

    def resolved(self, setup: Setup) -> VID:
        """Returns the same with the stages decided."""
        return replace(self, stages=resolve_stages(self.stages, setup, "vid"))

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns a regressor with its variances a pair."""
        return nn.ModuleDict(
            {
                f"stage_{s}_{t}": VariationalRegressor(
                    map_shape(setup.student, f"stage_{s}")[0],
                    map_shape(setup.guide, f"stage_{t}")[0],
                    self.eps,
                )
                for s, t in resolve_stages(self.stages, setup, "vid")
            }
        )

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean negative log-likelihoods (without ½·log 2π), summed over the stages."""
        losses: list[Tensor] = []
        for head, s, t in zip(heads.values(), *paired_maps(student, teacher, self.stages), strict=True):
            assert isinstance(head, VariationalRegressor)
            s, t = pool_larger(s, t)
            losses.append(vid_loss(head(s), head.log_scale, t, self.eps))
        return torch.stack(losses).sum()
