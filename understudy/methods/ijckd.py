"""IJCKD: the student joins the teacher's classifier, and labels and teacher both teach it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from understudy.heads.connector import ConnectorKind
from understudy.heads.transplant import find_transplant, transplanted_head
from understudy.heads.transplanted import transplanted_model
from understudy.interface import Batch, Network, NonNegative, Outputs, Setup
from understudy.losses.hint import hint_loss
from understudy.losses.logit_mse import logit_mse_loss
from understudy.losses.shapes import pool_larger
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class IJCKD(Method):
    """Squared difference of logits, the student's made by the teacher's classifier on its connected, pooled map.

    The published weight is 1, beside cross-entropy, which sees the same logits. The deployed model is backbone,
    connector and the teacher's classifier; the student's own head is dropped. Nothing is released.
    """

    paper: ClassVar[str] = "Li et al., Knowledge Distillation Under Ideal Joint Classifier Assumption, 2023"
    student_taps: ClassVar[tuple[str, ...]] = ("stage_last",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("logits", "stage_last")
    replaces_classifier: ClassVar[bool] = True

    feature_weight: NonNegative = 0.0
    """Of the squared difference of the last maps, the larger one pooled; the paper's ablation."""
    connector: ConnectorKind = "1x1"
    """``1x1`` is the paper's on CIFAR, ``1x1-3x3-1x1`` on ImageNet."""

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the connector and the teacher's classifier, frozen.

        Raises:
            ValueError: the teacher's classifier does not read its pooled last map, or has other classes.
        """
        return nn.ModuleDict({"transplant": transplanted_head(setup, self.connector, "ijckd")})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the difference of logits, plus the weighted one of maps; ``student`` has :meth:`logits` as logits."""
        loss = logit_mse_loss(student["logits"], teacher["logits"])
        if self.feature_weight > 0:
            connected = find_transplant(heads).connected(student["stage_last"])
            loss = loss + self.feature_weight * hint_loss(*pool_larger(connected, teacher["stage_last"]))
        find_transplant(heads).forget()
        return loss

    def logits(self, student: Outputs, heads: nn.ModuleDict) -> Tensor:
        """Returns the teacher's classifier on the student's connected, pooled map."""
        return heads["transplant"](student["stage_last"])

    def deploy(self, network: Network, heads: nn.ModuleDict) -> nn.Module:
        """Returns backbone, connector and the teacher's classifier as one module, all copies."""
        return transplanted_model(network, heads)
