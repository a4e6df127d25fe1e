"""What the engine asks of a task; the loop, the distiller and the verbs know no more of it."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from understudy.interface import Batch, Outputs
from understudy.methods.method import Method


class Tally(Protocol):
    """Counts of right and wrong answers that add up, over any parts of a set and over processes."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The counts, int64, by name; what is added to them is counted."""
        ...

    def add(self, logits: Tensor, target: Tensor) -> None:
        """Counts the answers to a batch; nothing is read on the host."""
        ...

    def judged(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns how many answers were right and how many were judged, 0-d, and how many each class got, ``(C,)``."""
        ...

    def scores(self) -> dict[str, float]:
        """Returns the scores by name, in percent, the one that chooses first; reads the device.

        Those that need more than counts (average precision) are left out.
        """
        ...


class Task(Protocol):
    """What a target is, how a term's loss is had from maps or vectors, and what is counted."""

    name: ClassVar[str]
    """Key of ``TASKS``."""
    primary: ClassVar[str]
    """Name of the score, in percent, by which epochs are chosen and methods compared."""
    watched: ClassVar[str]
    """Name of the score, in percent, that is counted while training."""
    per_class: ClassVar[str]
    """Under what name ``result.json`` has the score of every class."""
    titles: ClassVar[dict[str, str]]
    """Score -> what it is called in texts."""
    samples: ClassVar[str]
    """What a score is taken over, as texts call it."""
    parts: ClassVar[tuple[str, ...]]
    """Names of what the label's loss is the sum of, where it is one; they are logged beside the terms."""

    def objection(self, method: Method) -> str | None:
        """Returns what a method would have to be to make sense here; ``None`` if it does."""
        ...

    def density(self, target: Tensor, num_classes: int) -> Tensor | None:
        """Returns how many samples of a loss an image holds, 0-d, the mean over the batch; ``None`` where it is one.

        Raises:
            ValueError: the target has another shape or type, or (on CPU, in eager mode) holds no class numbers.
        """
        ...

    def unlabelled(self, images: Tensor, num_classes: int) -> Tensor:
        """Returns the target of images that come without."""
        ...

    def asked(self, batch: Batch, seed: int | None, first: int) -> Batch:
        """Returns the batch with what the student is given besides the images.

        Args:
            batch: what is learned from.
            seed: of this step; ``None`` where nobody seeds torch anew for every step.
            first: position of the batch's first image in the global batch.
        """
        ...

    def pointed(self, batch: Batch, student: Outputs) -> Batch:
        """Returns the batch with what the teachers are given besides the images, now that the student has answered."""
        ...

    def judged(self, student: Outputs, batch: Batch) -> Tensor:
        """Returns the labels of what the student's logits are of; its length is that of the batch."""
        ...

    def pieces(self, student: Outputs) -> dict[str, Tensor]:
        """Returns :attr:`parts`, each a mean over the images of the batch, 0-d."""
        ...

    def loss(
        self,
        method: Method,
        student: Outputs,
        teacher: Outputs,
        batch: Batch,
        heads: nn.ModuleDict,
        density: Tensor | None,
    ) -> Tensor:
        """Returns a term's unweighted loss, 0-d: a mean over the images of ``batch``.

        Args:
            method: of the term.
            student: what it shows of the batch.
            teacher: likewise.
            batch: what is learned from.
            heads: of the term.
            density: :meth:`density` of the whole step's batch, over all its parts and processes.
        """
        ...

    def tally(self, num_classes: int, device: torch.device) -> Tally:
        """Returns counts of nothing yet."""
        ...

    def agreement(self, ours: Tensor, theirs: Tensor, target: Tensor) -> Tensor:
        """Returns to how many of the judged samples two networks give the same class, and how many there are, ``(2,)``.

        Args:
            ours: logits.
            theirs: likewise.
            target: of the batch.
        """
        ...


BOXES_ONLY = (
    "be of a run that finds objects, got one that reads their boxes. Choose a detector for student and teacher, or "
    "take the term out"
)
"""What is said of such a method where there are none."""


class Plain:
    """How networks are asked that are given images alone, and judged by the batch's own labels.

    A loss is the method's.
    """

    __slots__ = ()
    parts: ClassVar[tuple[str, ...]] = ()

    def asked(self, batch: Batch, seed: int | None, first: int) -> Batch:
        """Returns the batch as it is."""
        del seed, first
        return batch

    def pointed(self, batch: Batch, student: Outputs) -> Batch:
        """Returns the batch as it is."""
        del student
        return batch

    def judged(self, student: Outputs, batch: Batch) -> Tensor:
        """Returns the batch's labels; of mixed images those with the larger share."""
        del student
        return batch.main_target

    def pieces(self, student: Outputs) -> dict[str, Tensor]:
        """Returns nothing: the label's loss is one."""
        del student
        return {}

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
