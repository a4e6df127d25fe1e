"""CC: how far both networks are apart on an image and on its neighbour in the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from understudy.heads.embedding import feature_embeddings
from understudy.interface import Batch, Outputs, Setup
from understudy.losses.cc import cc_loss
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class CC(Method):
    """Products of neighbouring differences between two linear embeddings; depends on the order of the batch.

    The published weight is .02.
    """

    paper: ClassVar[str] = "Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019"
    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature",)

    width: Annotated[int, Ge(1)] = 128
    """Of both embeddings."""

    @property
    def relates_samples(self) -> bool:
        """Always: neighbours in the batch."""
        return True

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns both embeddings; the teacher's is trained too."""
        return nn.ModuleDict(feature_embeddings(setup, self.width))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean over neighbours of Σ δ_i δ_{i+1}."""
        return cc_loss(heads["student"](student["feature"]), heads["teacher"](teacher["feature"].detach()))
