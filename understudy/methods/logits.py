"""Methods on logits alone, one value a sample; and both networks' logits, as they are or standardised."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from understudy.interface import Batch, Outputs
from understudy.losses.contract import reduce
from understudy.losses.standardise import standardise_logits
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitMethod(Method):
    """A method whose loss is the mean of one value a sample, which that sample's logits and label alone decide.

    So anything that has logits may be a sample: an image, a pixel of a segmentation map, or a box.
    """

    suits_boxes: ClassVar[bool] = True

    def answered(self, student: Outputs, heads: nn.ModuleDict) -> Tensor:
        """Returns the student's logits as the loss reads them, ``(B, C)`` or a map ``(B, C, H, W)``."""
        del heads
        return student["logits"]

    @abstractmethod
    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns the unweighted loss of every sample, ``(N,)``.

        Args:
            student: ``logits`` ``(N, C)``, as :meth:`answered` gives them.
            teacher: ``logits`` ``(N, C)``, where the method reads them.
            target: ``(N,)`` int64 class numbers.
        """

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean of :meth:`values`; of mixed images that of both labels, each with its share."""
        ours = {"logits": self.answered(student, heads)}
        return batch.over_labels(lambda target: reduce(self.values(ours, teacher, target), "mean"))


def logit_pair(student: Outputs, teacher: Outputs, standardise: bool) -> tuple[Tensor, Tensor]:
    """Returns the student's and the teacher's logits ``(B, C)``.

    Args:
        student: what the student shows.
        teacher: what the teacher shows.
        standardise: whether every row is shifted to mean 0 and scaled to standard deviation 1 first, so that the
            student is free to choose its own level and scale; a temperature then is in units of that deviation
            (Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024).
    """
    if not standardise:
        return student["logits"], teacher["logits"]
    return standardise_logits(student["logits"]), standardise_logits(teacher["logits"])
