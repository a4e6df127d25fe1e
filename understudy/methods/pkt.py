"""PKT: who is near whom in a batch, as probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from understudy.interface import Batch, Outputs, Positive
from understudy.losses.pkt import pkt_loss
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class PKT(Method):
    """KL divergence of normalised cosine similarities within the batch; widths may differ.

    The published weight is 30000, for the mean over all pairs that this is.
    """

    paper: ClassVar[str] = (
        "Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature",)

    eps: Positive = 1e-7

    @property
    def relates_samples(self) -> bool:
        """Always: all pairs of them."""
        return True

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean over pairs of t·log(t/s)."""
        return pkt_loss(student["feature"], teacher["feature"], self.eps)
