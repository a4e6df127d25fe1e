"""Binary cross-entropy with the labels: every class is there or not, by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.interface import NonNegative, Outputs, Setup
from understudy.methods.ce import constants, known_targets, one_a_class
from understudy.methods.logits import LogitMethod
from understudy.widest import widened


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCrossEntropy(LogitMethod):
    """Cross-entropy of every class's own sigmoid with its label, summed over the classes, averaged over the images.

    The label's term where an image may have several classes; what nobody knows (-1) adds nothing. Where images have one
    class each, that one is there and no other. The sum over classes puts it on one scale with ``binary_kl``: at
    temperature 1 a teacher that is certain and right gives the same gradient.
    """

    paper: ClassVar[str] = "labels only"
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True
    label_loss: ClassVar[bool] = True

    pos_weight: Literal["auto"] | tuple[NonNegative, ...] | None = None
    """One a class, for where it is there; ``auto``: training images without it over those with it (1 for none)."""

    @property
    def one_class(self) -> bool:
        """No: it is what takes several."""
        return False

    def resolved(self, setup: Setup) -> BinaryCrossEntropy:
        """Returns the same with the weights of the classes worked out.

        Raises:
            ValueError: the training labels are not known, or there is not one weight a class.
        """
        return replace(
            self, pos_weight=one_a_class("bce.pos_weight", self.pos_weight, setup, without_over_with)
        )

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns the sum over the known classes of every sample.

        Args:
            student: ``logits`` ``(N, C)``.
            teacher: not read.
            target: ``(N,)`` class numbers, or ``(N, C)`` of 1 (there), 0 (not there), -1 (not known).
        """
        logits = widened(student["logits"])
        there = _rows(target, logits.shape[1])
        weights = None if self.pos_weight is None else constants(self.pos_weight, logits)
        losses = F.binary_cross_entropy_with_logits(
            logits, there.clamp_min(0).to(logits.dtype), pos_weight=weights, reduction="none"
        )
        return torch.where(there >= 0, losses, 0.0).sum(dim=1)


def without_over_with(setup: Setup) -> tuple[float, ...]:
    """Returns for every class how many training images lack it, over how many have it; 1 where none or all have it.

    Raises:
        ValueError: the training labels are not known.
    """
    targets = known_targets("bce.pos_weight", setup)
    if targets.dim() > 2:  # masks: every pixel is a sample
        targets = targets.flatten().long()
    targets = targets if targets.dim() == 2 else targets[(targets >= 0) & (targets < setup.num_classes)]
    if targets.dim() == 2:
        there, absent = (targets == 1).sum(dim=0), (targets == 0).sum(dim=0)
    else:
        there = targets.bincount(minlength=setup.num_classes)
        absent = len(targets) - there
    pairs = zip(there.tolist(), absent.tolist(), strict=True)
    return tuple(without / own if own and without else 1.0 for own, without in pairs)


def _rows(target: Tensor, num_classes: int) -> Tensor:
    """Returns a row of 1, 0 and -1 for every sample; of a class number 1 there and 0 elsewhere."""
    if target.dim() == 2:
        return target
    return (target[:, None] == torch.arange(num_classes, device=target.device)).to(torch.int64)
