"""Segmentation: a label for every pixel, some of which are ignored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.interface import IGNORE, Batch, Outputs
from understudy.methods.logits import LogitMethod
from understudy.methods.method import Method
from understudy.metrics.segmentation import mean_iou, pixel_accuracy, pixel_confusion
from understudy.tasks.task import BOXES_ONLY, Plain
from understudy.widest import widen

_NO_LABEL = -1
"""In every pixel of a mask: nobody says what is in that image."""


@dataclass(frozen=True, slots=True)
class Segmentation(Plain):
    """A target is a mask ``(B, H, W)``; every labelled pixel is a sample of the methods on logits.

    Both networks' maps are brought to the mask's size (bilinear), and each pixel's logits become a row ``(C,)``: the
    losses are those of classification. Pixels that are ignored keep their rows, whose values are left out of the sum:
    all shapes are static, and nothing is read on the host. Such a term is the mean over the *labelled pixels of the
    global batch*; an image without any adds nothing. Methods on the backbone's maps are what they are for
    classification: means over images and all their pixels.
    """

    name: ClassVar[str] = "segmentation"
    primary: ClassVar[str] = "miou"
    watched: ClassVar[str] = "miou"
    per_class: ClassVar[str] = "class_iou"
    titles: ClassVar[dict[str, str]] = {"miou": "mIoU", "pixel_acc": "pixel accuracy"}
    samples: ClassVar[str] = "labelled pixels of test images"

    def objection(self, method: Method) -> str | None:
        """Returns that it reads more than a pixel's logits and the backbone's maps."""
        if method.needs_boxes:
            return BOXES_ONLY
        if isinstance(method, LogitMethod) or method.takes_maps:
            return None
        return (
            "read each pixel's logits alone (ce, kd, dkd, binary_kl_norm, dhkd, logit_mse, ttm ...) or the backbone's "
            "maps (cwd, at, fitnet, ofd, vid ...) where pixels are classified, got one that needs a vector an image, "
            "relates the images, or replaces the classifier. Use one of those named, or derive yours from LogitMethod"
        )

    def density(self, target: Tensor, num_classes: int) -> Tensor | None:
        """Returns the mean number of pixels an image that are not ignored, 0-d in the widest type.

        Raises:
            ValueError: the target is not int64 of shape ``(B, H, W)``, or (on CPU, in eager mode) has other numbers
                than classes and :data:`IGNORE` (-1: no label).
        """
        if target.dtype != torch.int64 or target.dim() != 3:
            raise ValueError(
                f"target must be int64 masks of shape (B, H, W), got {target.dtype} of shape {tuple(target.shape)}. "
                "Give a class number for every pixel"
            )
        counted = target != IGNORE
        if target.device.type == "cpu" and not torch.compiler.is_compiling():
            nothing = (target == _NO_LABEL) | ~counted
            told = ~nothing.flatten(1).all(dim=1).view(-1, 1, 1)  # -1 is of whole images only
            wrong = counted & ((target < 0) | (target >= num_classes)) & told
            if wrong.any():
                raise ValueError(
                    f"masks must hold class numbers from 0 to {num_classes - 1}, or {IGNORE} for what is ignored, got "
                    f"{int(target[wrong][0])}. Check the labels or the number of classes"
                )
        return widen(counted.sum()) / max(len(target), 1)

    def unlabelled(self, images: Tensor, num_classes: int) -> Tensor:
        """Returns -1 for every pixel: it has no label, and terms that need none learn from it."""
        del num_classes
        return torch.full((len(images), *images.shape[2:]), _NO_LABEL, device=images.device)

    def loss(
        self,
        method: Method,
        student: Outputs,
        teacher: Outputs,
        batch: Batch,
        heads: nn.ModuleDict,
        density: Tensor | None,
    ) -> Tensor:
        """Returns the sum over the labelled pixels of the batch, divided by its images and by ``density``.

        So the mean over all images of a step, in whatever parts, is the mean over all its labelled pixels.
        """
        if not isinstance(method, LogitMethod):
            return method.loss(student, teacher, batch, heads)
        assert density is not None
        target = batch.target
        counted = target != IGNORE
        ours = {"logits": _rows(method.answered(student, heads), target)}
        theirs = {"logits": _rows(teacher["logits"], target)} if "logits" in method.teacher_roles else {}
        values = method.values(ours, theirs, torch.where(counted, target, 0).flatten().clamp_min(0))
        total = torch.where(counted.flatten(), values, 0.0).sum()
        pixels = len(target) * density
        return total / torch.where(pixels > 0, pixels, 1.0).to(total.dtype)

    def tally(self, num_classes: int, device: torch.device) -> PixelTally:
        """Returns counts of nothing yet."""
        return PixelTally(torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device))

    def agreement(self, ours: Tensor, theirs: Tensor, target: Tensor) -> Tensor:
        """Returns how many labelled pixels get one class from both, and how many there are, ``(2,)`` int64."""
        counted = target != IGNORE
        same = (at_size(ours, target).argmax(dim=1) == at_size(theirs, target).argmax(dim=1)) & counted
        return torch.stack([same.sum(), counted.sum()])


@dataclass(frozen=True, slots=True)
class PixelTally:
    """Which class every labelled pixel has, and which it was given."""

    confusion: Tensor
    """``(C, C)``, a row a true class."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The counts by name."""
        return {"confusion": self.confusion}

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Counts the answers ``(B, C, h, w)`` to a batch with masks ``(B, H, W)``, at the masks' size."""
        predicted = at_size(logits, target).argmax(dim=1)
        self.confusion.add_(pixel_confusion(predicted, target, len(self.confusion)))

    def judged(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns right pixels, all labelled pixels, and those given to each class."""
        return self.confusion.diagonal().sum(), self.confusion.sum(), self.confusion.sum(dim=0)

    def scores(self) -> dict[str, float]:
        """Returns ``miou`` and ``pixel_acc`` in percent."""
        counts = self.confusion.cpu()
        return {"miou": mean_iou(counts), "pixel_acc": pixel_accuracy(counts)}


def at_size(logits: Tensor, target: Tensor) -> Tensor:
    """Returns a map of logits ``(B, C, h, w)`` at the size of the masks ``(B, H, W)``, bilinear."""
    size = (target.shape[1], target.shape[2])
    if tuple(logits.shape[2:]) == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _rows(logits: Tensor, target: Tensor) -> Tensor:
    """Returns a map's logits at the masks' size as ``(B·H·W, C)``."""
    return at_size(logits, target).permute(0, 2, 3, 1).flatten(0, 2)
