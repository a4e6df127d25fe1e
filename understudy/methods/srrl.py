"""SRRL: the teacher's classifier judges the student's feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from understudy.heads.connector import ConnectorKind
from understudy.heads.transplant import find_transplant, transplanted_head
from understudy.interface import Batch, NonNegative, Outputs, Search, Setup
from understudy.losses.srrl import srrl_loss
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class SRRL(Method):
    """Squared differences of the pooled features and of the logits that the teacher's classifier makes of them.

    The published weight is 1. The student answers with its own head, which cross-entropy trains; connector and
    classifier are thrown away. The teacher's pooled last map is read where it is, at the input of its classifier.
    """

    paper: ClassVar[str] = (
        "Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, ICLR 2021"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("stage_last",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature", "logits")

    feature_weight: Annotated[NonNegative, Search(0.25, 4.0)] = 1.0
    logit_weight: Annotated[NonNegative, Search(0.25, 4.0)] = 1.0
    connector: ConnectorKind = "1x1"

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the connector and the teacher's classifier, frozen.

        Raises:
            ValueError: the teacher's classifier does not read its pooled last map, or has other classes.
        """
        head = transplanted_head(setup, self.connector, "srrl", init="fan_out", deployed=False)
        return nn.ModuleDict({"transplant": head})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the weighted sum of both mean squared differences."""
        judge = find_transplant(heads)
        connected = judge.connected(student["stage_last"])
        return srrl_loss(
            connected,
            teacher["feature"],
            judge.classify(connected),
            teacher["logits"],
            self.feature_weight,
            self.logit_weight,
        )
