"""RKD: distances and angles between the features of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from understudy.interface import Batch, NonNegative, Outputs, Search
from understudy.losses.rkd import rkd_loss
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class RKD(Method):
    """Smooth-L1 differences of all pairs' distances and all triples' angles; widths may differ."""

    paper: ClassVar[str] = "Park et al., Relational Knowledge Distillation, CVPR 2019"
    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature",)

    distance_weight: Annotated[NonNegative, Search(5.0, 100.0)] = 25.0
    angle_weight: Annotated[NonNegative, Search(10.0, 200.0)] = 50.0

    @property
    def relates_samples(self) -> bool:
        """Always: pairs and triples of them."""
        return True

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns distance_weight·(distances) + angle_weight·(angles)."""
        return rkd_loss(student["feature"], teacher["feature"], self.distance_weight, self.angle_weight)
