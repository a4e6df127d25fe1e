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
    per_class: ClassVar[str]
    """Under what name ``result.json`` has the score of every class."""
    titles: ClassVar[dict[str, str]]
    """Score -> what it is called in texts; two, the primary one first."""
    samples: ClassVar[str]
    """What a score is taken over, as texts call it."""

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
