"""AT: where the maps are strong, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge
from pydantic import AllowInfNan
from torch import Tensor, nn

from understudy.interface import Batch, Outputs, Setup
from understudy.losses.at import at_loss
from understudy.methods.method import Method
from understudy.methods.stages import Stages, paired_maps, resolve_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class AT(Method):
    """Squared difference of attention maps, the channels' mean power at each place; the larger map is pooled.

    The published weight is 1000, for the mean over all elements that this is.
    """

    paper: ClassVar[str] = "Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017"
    student_taps: ClassVar[tuple[str, ...]] = ("stage_*",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_*",)

    p: Annotated[float, Ge(1), AllowInfNan(False)] = 2.0
    """Power of the activations."""
    stages: Stages | None = None
    """Pairs (student, teacher) of stages; all paired stages by default."""

    def resolved(self, setup: Setup) -> AT:
        """Returns the same with the stages decided."""
        return replace(self, stages=resolve_stages(self.stages, setup, "at"))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean squared differences of unit attention maps, summed over the stages."""
        return at_loss(*paired_maps(student, teacher, self.stages), p=self.p)
