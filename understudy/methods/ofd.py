"""OFD: the teacher's responses before the activation, where they matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from understudy.heads.margin import MarginConnector
from understudy.heads.shapes import map_shape
from understudy.interface import Batch, Outputs, Setup
from understudy.losses.ofd import ofd_loss
from understudy.losses.shapes import pool_larger
from understudy.methods.method import Method
from understudy.methods.stages import Stages, paired_maps, resolve_stages
from understudy.taps import norm_before


@dataclass(frozen=True, slots=True, kw_only=True)
class OFD(Method):
    """Partial squared distance before the activation, behind a margin; each stage counts half of the next deeper.

    The published weight is 1e-3 on CIFAR-100, 1e-4 on ImageNet. The larger map is pooled (the paper only knows
    larger teachers). Deviation: the authors run the teacher's batch norms on the statistics of each batch; by default
    ours is in eval mode, as every teacher here.
    """

    paper: ClassVar[str] = "Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019"
    student_taps: ClassVar[tuple[str, ...]] = ("preact_*",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("preact_*",)

    stages: Stages | None = None
    """Pairs (student, teacher) of stages; all paired stages by default."""
    teacher_bn: Literal["eval", "batch"] = "eval"
    """``batch``: the teacher's batch norms take the statistics of each batch (of all processes with
    ``train.sync_bn``), for every term that reads it; its running statistics stay, and whatever is measured of it is
    in eval mode."""

    @property
    def teacher_by_batch(self) -> bool:
        """As ``teacher_bn`` says."""
        return self.teacher_bn == "batch"

    def resolved(self, setup: Setup) -> OFD:
        """Returns the same with the stages decided."""
        return replace(self, stages=resolve_stages(self.stages, setup, "ofd", place="preact"))

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns a connector with the teacher's margin a pair.

        Raises:
            ValueError: a stage of the teacher has no batch norm in front of its activation, or one of another
                width.
        """
        pairs = resolve_stages(self.stages, setup, "ofd", place="preact")
        return nn.ModuleDict({f"stage_{s}_{t}": _connector(setup, s, t) for s, t in pairs})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the partial distances, that of stage k of n times 2^{-(n-k)}, summed over the stages."""
        maps = paired_maps(student, teacher, self.stages, "preact")
        losses: list[Tensor] = []
        for k, (head, s, t) in enumerate(zip(heads.values(), *maps, strict=True), start=1):
            assert isinstance(head, MarginConnector)
            losses.append(ofd_loss(*pool_larger(head(s), t), head.margin) * 2.0 ** (k - len(heads)))
        return torch.stack(losses).sum()


def _connector(setup: Setup, student_stage: int, teacher_stage: int) -> MarginConnector:
    try:
        norm = norm_before(setup.guide, teacher_stage)
    except ValueError as error:
        raise ValueError(f"ofd takes its margins from the teacher's batch norms: {error}") from None
    shape = map_shape(setup.guide, f"preact_{teacher_stage}")
    if norm.num_features != shape[0]:
        raise ValueError(
            f"ofd's batch norm in front of stage {teacher_stage}'s activation must have the map's channels, got "
            f"{norm.num_features} and {shape[0]}. Name another in the config, taps: {{norm_{teacher_stage}: PATH}}"
        )
    return MarginConnector(map_shape(setup.student, f"preact_{student_stage}")[0], norm)
