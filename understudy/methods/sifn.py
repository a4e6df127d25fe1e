"""SIFN: the norm of the student's feature grows by a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from understudy.heads.snapshot import FeatureSnapshot
from understudy.interface import Batch, Network, Outputs, Positive, Setup
from understudy.losses.sifn import sifn_loss
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class SIFN(Method):
    """Squared difference between the feature's norm and an earlier norm plus a step; needs no teacher.

    The earlier norm is that of the very same feature, cut off from the gradient (``detach``: a constant pull
    outwards), or that of the student as it was when the epoch began (``snapshot``: a second forward pass).
    """

    paper: ClassVar[str] = (
        "Wang et al., Improving Knowledge Distillation via Regularizing Feature Direction and Norm, ECCV 2024, Eq. 4"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    teacher_taps: ClassVar[tuple[str, ...]] = ()

    step: Positive = 1.0
    """By how much the norm shall grow, in units of the feature; nothing is published."""
    previous: Literal["detach", "snapshot"] = "detach"

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the snapshot, if one is compared with."""
        return nn.ModuleDict(
            {"snapshot": FeatureSnapshot(setup.student)} if self.previous == "snapshot" else {}
        )

    def start_epoch(self, student: Network, heads: nn.ModuleDict) -> None:
        """Takes a new snapshot, if one is compared with."""
        if self.previous == "snapshot":
            snapshot = heads["snapshot"]
            assert isinstance(snapshot, FeatureSnapshot)
            snapshot.update(student)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean of (‖f‖ - ‖f_previous‖ - step)²."""
        feature = student["feature"]
        previous = heads["snapshot"](batch.images) if self.previous == "snapshot" else feature
        return sifn_loss(feature, previous, self.step)
