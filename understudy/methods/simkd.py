"""SimKD: the teacher's classifier reused on a feature that learns to be the teacher's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from understudy.heads.connector import ConnectorKind
from understudy.heads.transplant import find_transplant, transplanted_head
from understudy.heads.transplanted import transplanted_model
from understudy.interface import Batch, Network, Outputs, Setup
from understudy.losses.hint import hint_loss
from understudy.losses.shapes import pool_larger
from understudy.methods.method import Method, TeacherPass


@dataclass(frozen=True, slots=True, kw_only=True)
class SimKD(Method):
    """Squared difference of the connected last map and the teacher's, the larger one pooled; nothing else.

    The published weight is 1, without cross-entropy. The deployed model is backbone, connector and the teacher's
    classifier; the student's own head gets no loss and is dropped.
    """

    paper: ClassVar[str] = "Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022"
    student_taps: ClassVar[tuple[str, ...]] = ("stage_last",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature", "stage_last")
    replaces_classifier: ClassVar[bool] = True

    connector: ConnectorKind = "1x1-3x3-1x1"

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the connector and the teacher's classifier, frozen.

        Raises:
            ValueError: the teacher's classifier does not read its pooled last map, or has other classes.
        """
        return nn.ModuleDict({"transplant": transplanted_head(setup, self.connector, "simkd")})

    def needs_prepare(self, heads: nn.ModuleDict) -> bool:
        """Returns whether the teacher's structure is still unchecked."""
        return not find_transplant(heads).checked

    def prepare(
        self, setup: Setup, heads: nn.ModuleDict, batches: Iterable[Batch], teacher: TeacherPass
    ) -> None:
        """Checks on one batch that the teacher's classifier reads its pooled last map, as the deployed model will.

        Raises:
            ValueError: it does not.
        """
        shown = teacher(next(iter(batches)))
        find_transplant(heads).check(shown["feature"], shown["stage_last"])

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean squared difference of the last maps."""
        connected = find_transplant(heads).connected(student["stage_last"])
        return hint_loss(*pool_larger(connected, teacher["stage_last"]))

    def logits(self, student: Outputs, heads: nn.ModuleDict) -> Tensor:
        """Returns the teacher's classifier on the student's connected, pooled map."""
        return heads["transplant"](student["stage_last"])

    def deploy(self, network: Network, heads: nn.ModuleDict) -> nn.Module:
        """Returns backbone, connector and the teacher's classifier as one module, all copies."""
        return transplanted_model(network, heads)
