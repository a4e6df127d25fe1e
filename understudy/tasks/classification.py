"""Classification: one label an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from understudy.interface import Batch, Outputs
from understudy.methods.method import Method
from understudy.tasks.task import BOXES_ONLY, Plain


@dataclass(frozen=True, slots=True)
class Classification(Plain):
    """A target is a class number an image; every loss is the method's own."""

    name: ClassVar[str] = "classification"
    primary: ClassVar[str] = "acc1"
    watched: ClassVar[str] = "acc1"
    per_class: ClassVar[str] = "class_acc1"
    titles: ClassVar[dict[str, str]] = {"acc1": "top-1", "acc5": "top-5"}
    samples: ClassVar[str] = "test images"

    def objection(self, method: Method) -> str | None:
        """Returns that it needs boxes, if it does; all other methods were made for classification."""
        return BOXES_ONLY if method.needs_boxes else None

    def density(self, target: Tensor, num_classes: int) -> Tensor | None:
        """Returns ``None``: an image is one sample."""
        del target, num_classes
        return None

    def unlabelled(self, images: Tensor, num_classes: int) -> Tensor:
        """Returns -1 for every image."""
        del num_classes
        return torch.full((len(images),), -1, device=images.device)

    def loss(
        self,
        method: Method,
        student: Outputs,
        teacher: Outputs,
        batch: Batch,
        heads: nn.ModuleDict,
        density: Tensor | None,
    ) -> Tensor:
        """Returns the method's loss."""
        del density
        return method.loss(student, teacher, batch, heads)

    def tally(self, num_classes: int, device: torch.device) -> ImageTally:
        """Returns counts of nothing yet."""
        return ImageTally(
            torch.zeros(2, dtype=torch.int64, device=device),
            torch.zeros(num_classes, dtype=torch.int64, device=device),
        )

    def agreement(self, ours: Tensor, theirs: Tensor, target: Tensor) -> Tensor:
        """Returns how many images get one class from both, and how many there are, ``(2,)`` int64."""
        same = (ours.argmax(dim=1) == theirs.argmax(dim=1)).sum()
        return torch.stack([same, torch.full_like(same, len(target))])


@dataclass(frozen=True, slots=True)
class ImageTally:
    """Right answers, answers, and answers by class."""

    counts: Tensor
    """``(2,)`` correct, seen."""
    predicted: Tensor
    """``(C,)``."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The counts by name."""
        return {"counts": self.counts, "predicted": self.predicted}

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Counts the answers ``(B, C)`` to a batch with labels ``(B,)``."""
        predicted = logits.argmax(dim=1)
        right = (predicted == target).sum()
        self.counts.add_(torch.stack([right, torch.full_like(right, len(target))]))
        self.predicted.index_add_(0, predicted, torch.ones_like(predicted))

    def judged(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns right answers, all answers, and those for each class."""
        return self.counts[0], self.counts[1], self.predicted

    def scores(self) -> dict[str, float]:
        """Returns ``acc1`` in percent."""
        correct, seen = self.counts.tolist()
        return {"acc1": 100.0 * correct / max(seen, 1)}
