"""Classification: one label an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

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

    def tally(self, num_classes: int, device: torch.device) -> ClassTally:
        """Returns counts of nothing yet."""
        return ClassTally.of_nothing(num_classes, device, "acc1")

    def agreement(self, ours: Tensor, theirs: Tensor, target: Tensor) -> Tensor:
        """Returns how many images get one class from both, and how many there are, ``(2,)`` int64."""
        same = (ours.argmax(dim=1) == theirs.argmax(dim=1)).sum()
        return torch.stack([same, torch.full_like(same, len(target))])


@dataclass(frozen=True, slots=True)
class ClassTally:
    """Right answers, answers, and answers by class, of samples with one class each."""

    counts: Tensor
    """``(2,)`` correct, seen."""
    predicted: Tensor
    """``(C,)``."""
    score: str
    """What the share of right answers is called."""

    @classmethod
    def of_nothing(cls, num_classes: int, device: torch.device, score: str) -> ClassTally:
        """Returns counts of nothing yet."""
        counts, predicted = (torch.zeros(n, dtype=torch.int64, device=device) for n in (2, num_classes))
        return cls(counts, predicted, score)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The counts by name."""
        return {"counts": self.counts, "predicted": self.predicted}

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Counts the answers ``(..., C)`` to samples with labels ``(...)``, -1 for none."""
        predicted = logits.argmax(dim=-1)
        right = (predicted == target).sum()
        labelled = target >= 0  # what is said of the others says nothing
        self.counts.add_(torch.stack([right, labelled.sum()]))
        self.predicted.index_add_(0, predicted.flatten(), labelled.flatten().to(predicted.dtype))

    def judged(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns right answers, all answers, and those for each class."""
        return self.counts[0], self.counts[1], self.predicted

    def scores(self) -> dict[str, float]:
        """Returns the share of right answers in percent."""
        correct, seen = self.counts.tolist()
        return {self.score: 100.0 * correct / max(seen, 1)}
