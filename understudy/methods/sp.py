"""SP: which images of a batch activate the networks alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from understudy.interface import Batch, Outputs
from understudy.losses.sp import sp_loss
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class SP(Method):
    """Squared difference of the Gram matrices of the last maps; channels and sizes may differ.

    Tokens are compared whole, class token included: a Gram matrix over images needs no grid.
    """

    paper: ClassVar[str] = "Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019"
    student_taps: ClassVar[tuple[str, ...]] = ("stage_last",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_last",)

    @property
    def relates_samples(self) -> bool:
        """Always: all pairs of them."""
        return True

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean over pairs of (G_s - G_t)², rows of G normalised."""
        return sp_loss(student["stage_last"], teacher["stage_last"])
