"""Cross-entropy with the labels: what training alone is, and the label's side of every distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.interface import Batch, NonNegative, Outputs, Setup, Share
from understudy.methods.logits import LogitMethod
from understudy.widest import widened


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy(LogitMethod):
    """Untempered mean cross-entropy of the student's logits against the labels."""

    paper: ClassVar[str] = "labels only"
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True
    label_loss: ClassVar[bool] = True

    label_smoothing: Share = 0.0
    class_weights: Literal["auto"] | tuple[NonNegative, ...] | None = None
    """One a class; ``auto``: inverse to its number of training images (or pixels), 1 in the mean over all of them."""

    def resolved(self, setup: Setup) -> CrossEntropy:
        """Returns the same with the weights of the classes worked out.

        Raises:
            ValueError: the training labels are not known, or there is not one weight a class.
        """
        weights = one_a_class("ce.class_weights", self.class_weights, setup, balanced_weights)
        return replace(self, class_weights=weights)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the mean of CE(z_s, y)."""
        if self.class_weights is not None:
            # a mean of weighted losses, not PyTorch's weighted mean: parts of a batch then add up to the whole
            return batch.over_labels(lambda target: self.values(student, teacher, target).mean())
        logits = widened(student["logits"])  # one kernel where a mean of values would be two
        return batch.over_labels(
            lambda target: F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        )

    def values(self, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        """Returns w_y CE(z_s, y)."""
        logits = widened(student["logits"])
        losses = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing, reduction="none")
        if self.class_weights is None:
            return losses
        return constants(self.class_weights, losses)[target] * losses


def constants(values: tuple[float, ...] | Literal["auto"], like: Tensor) -> Tensor:
    """Returns numbers of a setting, worked out by now, in a tensor's type and on its device; brought there once.

    A copy in every step would be a wait for the device, and no step with one can be recorded.
    """
    assert values != "auto"
    if torch.compiler.is_compiling():  # which makes constants of them
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return _constants(values, like.dtype, like.device)


@lru_cache(maxsize=64)
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first: it is kept for gradients, too
        return torch.tensor(values, dtype=dtype, device=device)


def one_a_class(
    key: str,
    given: Literal["auto"] | tuple[float, ...] | None,
    setup: Setup,
    work_out: Callable[[Setup], tuple[float, ...]],
) -> tuple[float, ...] | None:
    """Returns a setting of one number a class, worked out from the training labels where it is ``auto``.

    Raises:
        ValueError: there is not one a class.
    """
    weights = work_out(setup) if given == "auto" else given
    if weights is not None and len(weights) != setup.num_classes:
        raise ValueError(
            f"{key} must be one number for each of {setup.num_classes} classes, got {len(weights)}. "
            "Set auto, or correct the list"
        )
    return weights


def known_targets(key: str, setup: Setup) -> Tensor:
    """Returns the training labels, which a setting that is ``auto`` needs.

    Raises:
        ValueError: they are not known.
    """
    if setup.train_targets is None:
        raise ValueError(
            f"{key}: auto must know the training labels, got none. Give train_targets, or a list of weights"
        )
    return setup.train_targets


def balanced_weights(setup: Setup) -> tuple[float, ...]:
    r"""Returns :math:`w_c = N / (C\, n_c)`, 0 for a class without training images.

    N training images are of C classes that occur, :math:`n_c` of them of class c.

    Raises:
        ValueError: the training labels are not known.
    """
    targets = known_targets("ce.class_weights", setup)
    trained = targets[(targets >= 0) & (targets < setup.num_classes)]  # masks mark what is ignored by more
    counts = trained.bincount(minlength=setup.num_classes).tolist()
    present = sum(count > 0 for count in counts)
    return tuple(len(trained) / (present * count) if count else 0.0 for count in counts)
