"""AB: the student's neurons fire where the teacher's do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from understudy.heads.regressor import hint_regressor
from understudy.heads.shapes import map_shape
from understudy.interface import Batch, Outputs, Positive, Setup
from understudy.losses.ab import ab_loss
from understudy.losses.shapes import pool_larger
from understudy.methods.method import Method
from understudy.methods.stages import Stages, paired_maps, resolve_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class AB(Method):
    """Hinge on which side of zero every pre-activation lies, through a regressor where the shapes differ.

    A first stage of training, of 30 epochs of this loss alone (published weight 1), then cross-entropy::

        losses:
          - {name: ab, weight: {value: 1, until_epoch: 30}}
          - {name: ce, weight: {value: 1, from_epoch: 31}}
    """

    paper: ClassVar[str] = (
        "Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons, AAAI 2019"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("preact_*",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("preact_*",)

    margin: Positive = 1.0
    """How far from zero is far enough."""
    stages: Stages | None = None
    """Pairs (student, teacher) of stages; all paired stages by default."""

    def resolved(self, setup: Setup) -> AB:
        """Returns the same with the stages decided."""
        return replace(self, stages=resolve_stages(self.stages, setup, "ab", place="preact"))

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns FitNet's regressor without its ReLU a pair, the identity for equal shapes."""
        heads = nn.ModuleDict()
        for s, t in resolve_stages(self.stages, setup, "ab", place="preact"):
            shapes = map_shape(setup.student, f"preact_{s}"), map_shape(setup.guide, f"preact_{t}")
            equal = shapes[0] == shapes[1]
            heads[f"stage_{s}_{t}"] = nn.Identity() if equal else hint_regressor(*shapes, relu=False)
        return heads

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the hinges of all stages, the authors' factors included."""
        maps = zip(heads.values(), *paired_maps(student, teacher, self.stages, "preact"), strict=True)
        pairs = [pool_larger(connect(s), t) for connect, s, t in maps]
        return ab_loss([s for s, _ in pairs], [t for _, t in pairs], self.margin)
