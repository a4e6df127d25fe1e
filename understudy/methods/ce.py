"""Cross-entropy with the labels: what training alone is, and the label's side of every distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from understudy.interface import Batch, Outputs, Share
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy(Method):
    """Untempered mean cross-entropy of the student's logits against the labels."""

    paper: ClassVar[str] = "labels only"
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    uses_labels: ClassVar[bool] = True
    label_loss: ClassVar[bool] = True

    label_smoothing: Share = 0.0

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns CE(z_s, y)."""
        logits = student["logits"]
        return F.cross_entropy(
            logits.float() if logits.element_size() < 4 else logits,
            batch.target,
            label_smoothing=self.label_smoothing,
        )
