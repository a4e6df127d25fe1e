"""Multi-label classification: every class is in an image or not, and several may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from understudy.methods.method import Method
from understudy.metrics.multilabel import label_counts, micro_f1
from understudy.tasks.task import BOXES_ONLY, Plain


@dataclass(frozen=True, slots=True)
class MultiLabel(Plain):
    """A target is a row ``(C,)``: 1 where a class is there, 0 where it is not, -1 where nobody knows.

    Methods that presume one class an image (``Method.one_class``: they read class numbers, or a softmax over the
    classes) make no sense and are refused. ``bce`` is the label's term; ``binary_kl``, ``binary_kl_norm`` and ``dhkd``
    hand over the teacher's logits class by class.
    """

    name: ClassVar[str] = "multilabel"
    primary: ClassVar[str] = "map"
    watched: ClassVar[str] = "f1"
    per_class: ClassVar[str] = "class_ap"
    titles: ClassVar[dict[str, str]] = {"map": "mAP", "f1": "micro F1"}
    samples: ClassVar[str] = "labels of test images"

    def objection(self, method: Method) -> str | None:
        """Returns that it presumes one class an image, or needs boxes."""
        if method.needs_boxes:
            return BOXES_ONLY
        if not method.one_class:
            return None
        return (
            "not presume one class an image where several classes may be in it, got one that reads class numbers or a "
            "softmax over the classes. Use bce for the labels; binary_kl, binary_kl_norm, dhkd, logit_mse or a method "
            "on features for the teacher"
        )

    def density(self, target: Tensor, num_classes: int) -> Tensor | None:
        """Returns ``None``: an image is one sample.

        Raises:
            ValueError: there is not one number for every class.
        """
        if target.dim() != 2 or target.shape[1] != num_classes or target.is_floating_point():
            raise ValueError(
                f"target must be whole numbers of shape (B, {num_classes}), got {target.dtype} of shape "
                f"{tuple(target.shape)}. Give 1 (there), 0 (not there) or -1 (not known) for every class"
            )
        return None

    def unlabelled(self, images: Tensor, num_classes: int) -> Tensor:
        """Returns -1 for every class of every image."""
        return torch.full((len(images), num_classes), -1, device=images.device)

    def tally(self, num_classes: int, device: torch.device) -> LabelTally:
        """Returns counts of nothing yet."""
        return LabelTally(torch.zeros(4, num_classes, dtype=torch.int64, device=device))

    def agreement(self, ours: Tensor, theirs: Tensor, target: Tensor) -> Tensor:
        """Returns how many classes both find or both leave out, over all images, and how many there are, ``(2,)``."""
        same = ((ours > 0) == (theirs > 0)).sum()
        return torch.stack([same, torch.full_like(same, target.numel())])


@dataclass(frozen=True, slots=True)
class LabelTally:
    """What was found of every class and what was there; average precision needs all logits at once and is no count."""

    counts: Tensor
    """``(4, C)``, as :func:`understudy.metrics.label_counts` gives them."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The counts by name."""
        return {"counts": self.counts}

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Counts the answers ``(B, C)`` to a batch with labels ``(B, C)``."""
        self.counts.add_(label_counts(logits, target))

    def judged(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns right decisions, all decisions, and how often each class was found."""
        return self.counts[0].sum() + self.counts[3].sum(), self.counts.sum(), self.counts[:2].sum(dim=0)

    def scores(self) -> dict[str, float]:
        """Returns ``f1`` in percent."""
        return {"f1": 100 * micro_f1(self.counts.cpu())}
