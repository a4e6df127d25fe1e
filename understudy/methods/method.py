"""The one abstract class: what a distillation method is to the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from understudy.interface import Batch, Network, Outputs, Setup

TeacherPass = Callable[[Batch], Outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(ABC):
    """Hyper-parameters of one paper, and how its loss is computed from what is tapped.

    Subclasses are frozen dataclasses of numbers: they own no parameters and move no tensors. Everything that learns
    or remembers lives in the modules that :meth:`heads` returns; those are trained and saved with the run and never
    reach the deployed student. Methods are final: what two of them share is a function in ``losses/`` or a module
    in ``heads/``.
    """

    paper: ClassVar[str]
    """Authors, title, venue."""
    student_taps: ClassVar[tuple[str, ...]] = ("logits",)
    """Roles read from the student; ``stage_*`` and ``preact_*`` stand for all paired stages."""
    teacher_taps: ClassVar[tuple[str, ...]] = ("logits",)
    """Roles read from the teacher; empty for a term that needs none."""
    prepare_taps: ClassVar[tuple[str, ...]] = ()
    """Roles read from the teacher in :meth:`prepare` only; with no ``teacher_taps`` it is not run in a step."""
    uses_labels: ClassVar[bool] = False
    """Whether the loss reads ``batch.target``."""
    mixes_labels: ClassVar[bool] = False
    """Whether it reads them by ``batch.over_labels``, so that mixed images (mixup, CutMix) may have two."""
    label_loss: ClassVar[bool] = False
    """Whether the term is the label's side (L_1) when gradients are aligned; all others are the teacher's (L_2)."""
    replaces_classifier: ClassVar[bool] = False
    """Whether the deployed model answers with :meth:`logits` instead of the student's own head."""

    unscheduled: ClassVar[tuple[str, ...]] = ()
    """Numbers that no schedule may change: something that is computed from them once is kept."""
    needs_boxes: ClassVar[bool] = False
    """Whether it reads the boxes of objects, so that it makes sense where they are found alone."""
    suits_boxes: ClassVar[bool] = False
    """Whether proposals of a detector may be its samples: of logits and features it reads a row a sample."""

    @property
    def student_roles(self) -> tuple[str, ...]:
        """The roles that this very instance reads of the student, where settings decide which of ``student_taps``."""
        return self.student_taps

    @property
    def teacher_roles(self) -> tuple[str, ...]:
        """Likewise for the teacher in a step, of ``teacher_taps``."""
        return self.teacher_taps

    @property
    def relates_samples(self) -> bool:
        """Whether the loss is more than a mean over samples: it relates them, or keeps a memory of them.

        With several processes such a loss is evaluated on the global batch by each of them alike: it then sees
        outputs, target, index and view of all images, but ``batch.images`` of its own process only. All other losses
        must be means (in whatever weights a sample alone decides), so that parts of a batch add up.
        """
        return False

    @property
    def one_class(self) -> bool:
        """Whether it presumes that an image has one class: it reads class numbers, or a softmax over the classes."""
        return self.uses_labels

    @property
    def teacher_by_batch(self) -> bool:
        """Whether its teacher's batch norms take the statistics of each batch in a step, for all terms that read it.

        What such a teacher answers depends on the company an image is in, so no table keeps it.
        """
        return False

    @property
    def takes_maps(self) -> bool:
        """Whether everything it reads may be of a network that classifies pixels: stages alone, and no label."""
        roles = (*self.student_roles, *self.teacher_roles, *self.prepare_taps)
        stages = all(role.startswith(("stage_", "preact_")) for role in roles)
        return stages and not (self.uses_labels or self.replaces_classifier)

    def resolved(self, setup: Setup) -> Method:
        """Returns the same method with every automatic choice made; the choice is written into the run's config."""
        del setup
        return self

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the modules the term trains or keeps; none by default.

        Raises:
            ValueError: if the pair of networks does not suit the method.
        """
        del setup
        return nn.ModuleDict()

    def prepare(  # noqa: B027 (empty on purpose: most terms have nothing to prepare)
        self, setup: Setup, heads: nn.ModuleDict, batches: Iterable[Batch], teacher: TeacherPass
    ) -> None:
        """Computes what the term must know of the training data, in one pass over ``batches``."""

    @property
    def prepares_augmented(self) -> bool:
        """Whether :meth:`prepare` is shown the images as the first epoch shows them; by default un-augmented."""
        return False

    def needs_prepare(self, heads: nn.ModuleDict) -> bool:
        """Returns whether :meth:`prepare` has work to do (a resumed or pre-filled head has none)."""
        del heads
        return False

    def start_epoch(self, student: Network, heads: nn.ModuleDict) -> None:  # noqa: B027 (empty on purpose, too)
        """Looks at the student as it is before the first step of an epoch; a run resumed within one skips it."""

    @abstractmethod
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the term's unweighted loss, a 0-d tensor."""

    def logits(self, student: Outputs, heads: nn.ModuleDict) -> Tensor:
        """Returns the logits of the deployed model, for a method that ``replaces_classifier``."""
        del heads
        return student["logits"]

    def deploy(self, network: Network, heads: nn.ModuleDict) -> nn.Module:
        """Returns the plain module to ship; the student itself by default."""
        del heads
        return network.module
