"""Detection: boxes around objects, found by proposing some and classifying what is in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from understudy.data.counter import Stream, random_bits
from understudy.interface import Batch, Outputs
from understudy.losses.boxes import box_loss, objectness_loss
from understudy.methods.method import Method
from understudy.tasks.classification import ClassTally

PARTS = ("ce_class", "ce_box", "ce_objectness", "ce_proposal")
"""What the label's loss is the sum of: class and place of the proposals, and both of the anchors."""
_SAMPLES = frozenset(("logits", "feature"))
"""Roles that are shown of every proposal."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A target is rows of class and box; every proposal that the student draws is a sample of the methods on vectors.

    The student proposes boxes and draws S of them in each image, a quarter of them with an object at most; the teacher
    scores the same boxes from its own maps. Logits have the background as class 0, and a proposal's label is the class
    it was assigned. Such a term is the mean over the drawn proposals of the global batch: every image has S, so parts
    of a batch add up. The term on labels adds the three other losses of Faster R-CNN to its own on the proposals'
    classes. Methods on stages read the levels of the pyramid.
    """

    name: ClassVar[str] = "detection"
    primary: ClassVar[str] = "ap"
    watched: ClassVar[str] = "box_acc"
    per_class: ClassVar[str] = "class_ap"
    titles: ClassVar[dict[str, str]] = {
        "ap": "AP",
        "ap50": "AP50",
        "ap75": "AP75",
        "ap_small": "AP small",
        "ap_medium": "AP medium",
        "ap_large": "AP large",
    }
    samples: ClassVar[str] = "test images"
    parts: ClassVar[tuple[str, ...]] = PARTS

    def objection(self, method: Method) -> str | None:
        """Returns that it reads more than proposals and the pyramid's levels, or relates proposals."""
        softmax = method.one_class or not method.uses_labels  # as the detector's own scores are
        suits = (method.suits_boxes and softmax) or (
            method.takes_maps and not {"stage_0", "stage_last"} & _roles(method)
        )
        if suits and not method.replaces_classifier and not (method.relates_samples and _of_samples(method)):
            return None
        return (
            "read each proposal's logits or feature (ce, kd, dkd, dhkd, dino ...) or the pyramid's levels (fitnet, "
            "reviewkd, fgfi, at, nst ...) where objects are found, got one that relates the images, remembers them, or "
            "replaces the classifier. Use one of those named"
        )

    def density(self, target: Tensor, num_classes: int) -> Tensor | None:
        """Returns ``None``: every image has as many samples.

        Raises:
            ValueError: the target is no float tensor ``(B, M, 8)``, or (on CPU) holds other classes.
        """
        if not target.is_floating_point() or target.dim() != 3 or target.shape[2] != 8:
            raise ValueError(
                f"target must be rows (B, M, 8) of class, box, crowd, area and scale, got {target.dtype} of shape "
                f"{tuple(target.shape)}. Give rows of -1 to images without objects"
            )
        if (
            target.device.type == "cpu"
            and target.numel()
            and (highest := int(target[..., 0].max())) >= num_classes
        ):
            raise ValueError(
                f"targets must hold class numbers from 1 to {num_classes - 1}, got {highest}. Check the labels or the "
                "number of classes"
            )
        return None

    def unlabelled(self, images: Tensor, num_classes: int) -> Tensor:
        """Returns no row of any object."""
        del num_classes
        return images.new_full((len(images), 1, 8), -1.0)

    def asked(self, batch: Batch, seed: int | None, first: int) -> Batch:
        """Returns the batch with what the student is asked: to propose boxes, and to draw by a key an image.

        Args:
            batch: what is learned from.
            seed: of this step; ``None`` draws one from torch's generator.
            first: position of the first image in the global batch, which stands for images without an index.
        """
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        number = batch.index
        if number is None:
            number = first + torch.arange(len(batch.images), device=batch.images.device)
        return replace(batch, question=(None, batch.target, random_bits(seed, Stream.DETECTION, number)))

    def pointed(self, batch: Batch, student: Outputs) -> Batch:
        """Returns the batch with what teachers are asked: of the boxes that the student drew."""
        return replace(batch, question=(student["boxes"],))

    def judged(self, student: Outputs, batch: Batch) -> Tensor:
        """Returns the class each drawn proposal was assigned, ``(B, S)``."""
        del batch
        return student["labels"]

    def pieces(self, student: Outputs) -> dict[str, Tensor]:
        """Returns the four parts of the label's loss by name, each a mean over images, 0-d."""
        logits, labels = student["logits"].flatten(0, 1), student["labels"].flatten()
        return {"ce_class": nn.functional.cross_entropy(logits, labels), **_places(student)}

    def loss(
        self,
        method: Method,
        student: Outputs,
        teacher: Outputs,
        batch: Batch,
        heads: nn.ModuleDict,
        density: Tensor | None,
    ) -> Tensor:
        """Returns the mean over the drawn proposals or, of a method on stages, over the images."""
        del density
        if not _of_samples(method):
            return method.loss(student, teacher, batch, heads)
        drawn = Batch(batch.images, student["labels"].flatten())
        loss = method.loss(_rows(student), _rows(teacher), drawn, heads)
        if method.label_loss:
            loss = loss + torch.stack([*_places(student).values()]).sum().to(loss.dtype)
        return loss

    def tally(self, num_classes: int, device: torch.device) -> ClassTally:
        """Returns counts of nothing yet, of drawn proposals; ``num_classes`` has the background."""
        return ClassTally.of_nothing(num_classes, device, self.watched)

    def agreement(self, ours: Tensor, theirs: Tensor, target: Tensor) -> Tensor:
        """Returns how many boxes get one class from both, and how many there are, ``(2,)`` int64."""
        same = (ours.argmax(dim=-1) == theirs.argmax(dim=-1)).sum()
        return torch.stack([same, torch.full_like(same, target.numel())])


def _of_samples(method: Method) -> bool:
    """Returns whether a method reads proposals, and no level of the pyramid."""
    return _roles(method) <= _SAMPLES


def _roles(method: Method) -> set[str]:
    return {*method.student_roles, *method.teacher_roles, *method.prepare_taps}


def _rows(shown: Outputs) -> dict[str, Tensor]:
    """Returns what is shown with a row a proposal, ``(B·S, ...)``, and the levels as they are."""
    return {role: tensor.flatten(0, 1) if role in _SAMPLES else tensor for role, tensor in shown.items()}


def _places(student: Outputs) -> dict[str, Tensor]:
    """Returns the losses of Faster R-CNN beside that of the classes."""
    return {
        "ce_box": box_loss(student["box_deltas"], student["box_goals"], student["labels"]),
        "ce_objectness": objectness_loss(student["anchor_logits"], student["anchor_labels"]),
        "ce_proposal": box_loss(student["anchor_deltas"], student["anchor_goals"], student["anchor_labels"]),
    }
