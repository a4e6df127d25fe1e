"""DHKD and dual-head KD: the teacher's loss on a second head that is thrown away."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from understudy.heads.auxiliary import auxiliary_head
from understudy.interface import Outputs, Setup, Temperature
from understudy.losses.binary_kl import binary_kl_loss, binary_kl_norm_loss
from understudy.losses.kd import kd_loss
from understudy.methods.logits import LogitMethod
from understudy.methods.method import Method

Head = Literal["auto", "linear", "mlp"]

_LOSSES = {"binary_kl_norm": binary_kl_norm_loss, "binary_kl": binary_kl_loss, "kd": kd_loss}


@dataclass(frozen=True, slots=True, kw_only=True)
class _SecondHead(LogitMethod):
    """A loss of the teacher's logits on an auxiliary head, which is thrown away."""

    student_taps: ClassVar[tuple[str, ...]] = ("feature",)

    temperature: Temperature = 4.0
    head: Head = "auto"

    def resolved(self, setup: Setup) -> Method:
        """Returns the same with the kind of head decided."""
        return replace(self, head=_head_kind(self.head, setup))

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the auxiliary head on the student's feature."""
        kind, student = _head_kind(self.head, setup), setup.student
        width = student.shapes["feature"][0]
        return nn.ModuleDict(
            {"aux": auxiliary_head(kind, width, setup.guide.num_classes, per_pixel=student.dense)}
        )

    def answered(self, student: Outputs, heads: nn.ModuleDict) -> Tensor:
        """Returns the auxiliary head's logits."""
        return heads["aux"](student["feature"])


@dataclass(frozen=True, slots=True, kw_only=True)
class DHKD(_SecondHead):
    """Labels teach the student's own head, the teacher's logits an auxiliary head; both teach the backbone.

    ``head: auto`` is a linear head where student and teacher are of one family, else an MLP (the paper's rule).
    """

    paper: ClassVar[str] = "Yang et al., Dual-Head Knowledge Distillation"

    temperature: Temperature = 2.0
    head_loss: Literal["binary_kl_norm", "binary_kl", "kd"] = "binary_kl_norm"

    @property
    def one_class(self) -> bool:
        """Where the auxiliary head learns by a softmax over the classes."""
        return self.head_loss == "kd"

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns the logit loss of the auxiliary head."""
        return _LOSSES[self.head_loss](student["logits"], teacher["logits"], self.temperature, "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class DualHeadKD(_SecondHead):
    """Plain KD on the second head: what the second head alone brings."""

    paper: ClassVar[str] = "Yang et al., Dual-Head Knowledge Distillation, Table 12"

    @property
    def one_class(self) -> bool:
        """It reads a softmax over the classes."""
        return True

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns KD of the auxiliary head."""
        return kd_loss(student["logits"], teacher["logits"], self.temperature, "none")


def _head_kind(head: Head, setup: Setup) -> Literal["linear", "mlp"]:
    if head == "auto":
        return "linear" if setup.same_family else "mlp"
    return head
