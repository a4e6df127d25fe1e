"""CRD: tell the own image's embedding from thousands of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from understudy.heads.crd_memory import CRDMemory
from understudy.heads.embedding import feature_embeddings
from understudy.interface import Batch, Outputs, Positive, Search, Setup, Share
from understudy.losses.crd import crd_loss
from understudy.losses.numerics import unit
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class CRD(Method):
    """Noise-contrastive estimation over both networks' embeddings and a memory of all training images."""

    paper: ClassVar[str] = "Tian et al., Contrastive Representation Distillation, ICLR 2020"
    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature",)
    uses_labels: ClassVar[bool] = True
    unscheduled: ClassVar[tuple[str, ...]] = ("temperature",)  # Z is of the first batch

    temperature: Annotated[Positive, Search(0.03, 0.2)] = 0.07
    negatives: Annotated[int, Ge(1)] = 16384
    """Images of other classes that each sample is told from, drawn anew for every batch."""
    width: Annotated[int, Ge(1)] = 128
    """Of the embeddings and of the memory's rows."""
    momentum: Share = 0.5
    """Share of the old row when the memory is renewed."""

    @property
    def relates_samples(self) -> bool:
        """Always: the memory keeps a row of each."""
        return True

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns both embeddings and the memory.

        Raises:
            ValueError: the training labels are not known.
        """
        if setup.train_targets is None:
            raise ValueError(
                "crd must know the label of every training image, got none. "
                "Pass train_targets= to the Distiller (label by index, -1 for images that are not trained on)"
            )
        memory = CRDMemory(setup.train_targets, setup.num_classes, self.width)
        return nn.ModuleDict({**feature_embeddings(setup, self.width), "memory": memory})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the contrastive loss of both sides, then moves the memory's rows of this batch.

        Raises:
            ValueError: the batch does not say which training images it holds.
        """
        if batch.index is None:
            raise ValueError(
                "crd must know which training image each sample is, got a batch without index. "
                "Call distiller(images, targets, index=...)"
            )
        memory = heads["memory"]
        assert isinstance(memory, CRDMemory)
        ours = unit(heads["student"](student["feature"]))
        theirs = unit(heads["teacher"](teacher["feature"].detach()))
        others = memory.negatives(batch.target, self.negatives)
        banks = memory.banks()
        normalizers = memory.normalizers(ours, theirs, batch.index, others, self.temperature)
        loss = crd_loss(ours, theirs, *banks, batch.index, others, *normalizers, self.temperature)
        memory.update(batch.index, ours, theirs, self.momentum)
        return loss
