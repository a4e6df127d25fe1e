"""Cross-entropy with the labels: what training alone is, and the label's side of every distillation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.interface import Batch, NonNegative, Outputs, Setup, Share
from understudy.methods.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy(Method):
    """Untempered mean cross-entropy of the student's logits against the labels."""

    paper: ClassVar[str] = "labels only"
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True
    label_loss: ClassVar[bool] = True

    label_smoothing: Share = 0.0
    class_weights: Literal["auto"] | tuple[NonNegative, ...] | None = None
    """One a class; ``auto``: inverse to the number of its training images, 1 in the mean over all of them."""

    def resolved(self, setup: Setup) -> CrossEntropy:
        """Returns the same with the weights of the classes worked out.

        Raises:
            ValueError: the training labels are not known, or there is not one weight a class.
        """
        if self.class_weights is None:
            return self
        weights = balanced_weights(setup) if self.class_weights == "auto" else self.class_weights
        if len(weights) != setup.num_classes:
            raise ValueError(
                f"ce.class_weights must be one number for each of {setup.num_classes} classes, got {len(weights)}. "
                "Set auto, or correct the list"
            )
        return replace(self, class_weights=weights)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns CE(z_s, y)."""
        logits = student["logits"]
        logits = logits.float() if logits.element_size() < 4 else logits
        return batch.over_labels(lambda target: self._one(logits, target))

    def _one(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.class_weights is None:
            return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        # a mean of weighted losses, not PyTorch's weighted mean: parts of a batch then add up to the whole
        losses = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing, reduction="none")
        weights = torch.tensor(self.class_weights, dtype=losses.dtype, device=losses.device)
        return (weights[target] * losses).mean()


def balanced_weights(setup: Setup) -> tuple[float, ...]:
    r"""Returns :math:`w_c = N / (C\, n_c)` for N training images of which :math:`n_c` are of class c, 0 for none.

    Raises:
        ValueError: the training labels are not known.
    """
    if setup.train_targets is None:
        raise ValueError(
            "ce.class_weights: auto must know the training labels, got none. Give train_targets, or a list of weights"
        )
    trained = setup.train_targets[setup.train_targets >= 0]
    counts = trained.bincount(minlength=setup.num_classes).tolist()
    present = sum(count > 0 for count in counts)
    return tuple(len(trained) / (present * count) if count else 0.0 for count in counts)
