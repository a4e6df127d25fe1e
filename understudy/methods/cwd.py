"""CWD: where in the last map each channel looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from understudy.heads.shapes import map_shape
from understudy.heads.tokens import as_map
from understudy.interface import Batch, Outputs, Setup, Temperature
from understudy.losses.cwd import cwd_loss
from understudy.losses.shapes import pool_larger
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class CWD(Method):
    """KL divergence of the channels' softmaxes over space, at the last map.

    A 1×1 projector stands in between where the channels differ; the larger map is pooled. The paper distils
    segmentation; for classification nothing is published. Every pixel counts, labelled or not, and every image alike.
    """

    paper: ClassVar[str] = "Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021"
    student_taps: ClassVar[tuple[str, ...]] = ("stage_last",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_last",)

    temperature: Temperature = 4.0
    role: Literal["stage_last", "logits"] = "stage_last"
    """``logits``: the score maps of a segmentation network, which the paper recommends, with weight 3."""

    @property
    def student_roles(self) -> tuple[str, ...]:
        """The maps that are compared."""
        return (self.role,)

    @property
    def teacher_roles(self) -> tuple[str, ...]:
        """The maps that are compared."""
        return (self.role,)

    @property
    def takes_maps(self) -> bool:
        """Always: the score maps, too."""
        return True

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the projector, the identity for equal channels.

        Raises:
            ValueError: the maps are of one pixel, over which every softmax is 1, or the logits are no maps.
        """
        if self.role == "logits" and not (setup.student.dense and setup.guide.dense):
            raise ValueError(
                "cwd with role logits must compare maps of two segmentation networks, got vectors. Use role: stage_last"
            )
        ours, theirs = map_shape(setup.student, self.role), map_shape(setup.guide, self.role)
        if min(ours[1], theirs[1]) * min(ours[2], theirs[2]) == 1:
            raise ValueError(
                f"cwd must compare maps of two pixels or more, got student {ours} and teacher {theirs}. "
                "Name an earlier map as stage_last in the config (taps), or use larger images"
            )
        project = nn.Identity() if ours[0] == theirs[0] else nn.Conv2d(ours[0], theirs[0], 1)
        return nn.ModuleDict({"project": project})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns τ² KL(p_t ‖ p_s) over space, averaged over channels."""
        ours, theirs = pool_larger(as_map(student[self.role]), as_map(teacher[self.role]))
        return cwd_loss(heads["project"](ours), theirs, self.temperature)
