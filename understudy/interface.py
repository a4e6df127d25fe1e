"""The values that cross layers: what a step sees, what a network shows, what a term may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, Le
from pydantic import AllowInfNan
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Search:
    """Where ``tune`` looks for a number: it stands beside the number's bounds, in the annotation of its field.

    A field without is never changed, nor is a number that is 0: it is switched off.
    """

    low: float
    high: float
    log: bool = True
    """Whether factors count alike, not differences."""
    of_value: bool = False
    """Whether ``low`` and ``high`` are multiples of what the config says."""


Positive: TypeAlias = Annotated[float, Gt(0), AllowInfNan(False)]
"""A finite number above 0, such as a temperature."""
NonNegative: TypeAlias = Annotated[float, Ge(0), AllowInfNan(False)]
"""A finite number from 0 up, such as a weight."""
Temperature: TypeAlias = Annotated[Positive, Search(1.0, 8.0)]
"""Of a softmax or sigmoid; the papers publish 1 to 4, and 8 in their sweeps."""
Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
"""A number from 0 to 1."""

IGNORE = 255
"""Value of a mask's pixels that are neither learned nor measured, as in Cityscapes, VOC and most others."""

Outputs: TypeAlias = Mapping[str, Tensor]
"""What one forward pass of a network showed: role -> tensor.

Roles are one vocabulary everywhere (docs/methods.md, Conventions):

- ``logits`` ``(B, C)``; of a segmentation network the map ``(B, C, H, W)`` before it is brought to the image's size; of
  a detector ``(B, S, C)``, those of S boxes an image
- ``feature`` ``(B, D)``: the input of the head (the last linear layer); ``(B, D, H, W)``: of the last 1×1 convolution;
  ``(B, S, D)``: of each box
- ``stage_k`` ``(B, C_k, H_k, W_k)`` (or tokens ``(B, N, D)``): output of stage k after its last activation;
  ``stage_0`` is the stem
- ``preact_k``: the same before that activation (equal to ``stage_k`` where the stage ends without one)
- ``stage_last``: the last map before global pooling (after any final BN-ReLU)
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch as every term sees it.

    ``index`` says which sample of the training set each image is and ``view`` which augmentation of it; both are
    counter-based (docs/architecture.md, The way of the data), so together they address the teacher's memory.
    """

    images: Tensor
    """``(B, C, H, W)``, normalised, floating."""
    target: Tensor
    """``(B,)`` int64 class numbers; for segmentation ``(B, H, W)``, :data:`IGNORE` where a pixel counts for nothing;
    for detection rows of objects ``(B, M, 8)`` (:class:`understudy.data.BoxSet`)."""
    index: Tensor | None = None
    """``(B,)`` int64 position in the training set as read."""
    view: Tensor | None = None
    """``(B,)`` int64 number of the augmentation."""
    partner: Tensor | None = None
    """``(B,)`` int64 class numbers of the images that were mixed in; ``None`` where nothing is mixed."""
    kept: float = 1.0
    """Share of every image that is its own; the rest is its partner's."""
    question: tuple[Tensor | None, ...] = ()
    """What a network is given besides the images: where objects are found, which boxes it is asked about."""

    @property
    def main_target(self) -> Tensor:
        """``(B,)`` the label that has the larger share of each image."""
        return self.target if self.partner is None or self.kept >= 0.5 else self.partner

    @property
    def inputs(self) -> dict[str, Any]:
        """What :class:`Distiller` is given of a batch, by the names of its arguments: ``distiller(**batch.inputs)``."""
        return {
            "images": self.images,
            "targets": self.target,
            "index": self.index,
            "view": self.view,
            "partner": self.partner,
            "kept": self.kept,
        }

    def over_labels(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns a loss that reads labels; of mixed images ``kept · loss(own) + (1 − kept) · loss(partner's)``.

        Args:
            loss: of labels ``(B,)``.
        """
        if self.partner is None or self.kept == 1.0:
            return loss(self.target)
        return self.kept * loss(self.target) + (1 - self.kept) * loss(self.partner)

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Returns the batch with every column that is there changed alike."""
        columns = (self.index, self.view, self.partner)
        index, view, partner = (None if column is None else change(column) for column in columns)
        return Batch(change(self.images), change(self.target), index, view, partner, self.kept)


@dataclass(frozen=True, slots=True)
class Network:
    """A module and where its roles are: the only thing methods know of an architecture.

    ``paths`` maps a role (``feature`` and ``logits`` excepted: they are the input and output of ``head``) to the
    module path whose output is that role; for ``preact_k`` to the activation module whose *input* is.
    ``shapes`` holds the shape of every role for one image (without the batch dimension).
    """

    module: nn.Module
    head: str | None
    """Path of the last linear layer (or 1×1 convolution), ``None`` where the logits are all that can be seen."""
    paths: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    detects: bool = False
    """Whether it finds objects: its logits are of boxes, of which the background is class 0."""

    @property
    def num_stages(self) -> int:
        """Number of stages, the stem (``stage_0``) not counted."""
        return sum(
            1
            for role in self.shapes
            if role.startswith("stage_") and role[6:].isdigit() and role != "stage_0"
        )

    @property
    def classifier(self) -> nn.Linear:
        """The head itself.

        Raises:
            ValueError: if the network has none that can be seen.
        """
        head = self.module.get_submodule(self.head) if self.head is not None else None
        if not isinstance(head, nn.Linear):
            raise ValueError(
                "the network must end in a linear layer, got none that could be found. "
                "Name it in the config, e.g. taps: {head: classifier.3}"
            )
        return head

    @property
    def head_layer(self) -> nn.Linear | nn.Conv2d:
        """What makes the logits: the last linear layer, or the 1×1 convolution that classifies pixels.

        Raises:
            ValueError: if the network has neither that can be seen.
        """
        head = self.module.get_submodule(self.head) if self.head is not None else None
        return head if isinstance(head, nn.Conv2d) else self.classifier

    @property
    def dense(self) -> bool:
        """Whether every pixel is classified, not the image."""
        return len(self.shapes["logits"]) == 3

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.shapes["logits"][0]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a term may ask for when it builds its heads: both networks, the classes, the data's size."""

    student: Network
    teacher: Network | None
    num_classes: int
    pairs: tuple[tuple[int, int], ...] = ()
    """Stages that belong together: ``(student k, teacher k)``, shallow to deep."""
    class_means: Tensor | None = None
    """``(C, D)`` the teacher's mean feature of every class, if the caller has it already."""
    train_targets: Tensor | None = None
    """``(N,)`` label of every training image by its index, -1 for one that is not trained on; if known."""
    same_family: bool = False
    """Whether both networks are of one family (DHKD chooses its auxiliary head by it)."""

    @property
    def guide(self) -> Network:
        """The teacher.

        Raises:
            ValueError: if there is none.
        """
        if self.teacher is None:
            raise ValueError("this term must have a teacher, got none. Add a teacher: section to the config")
        return self.teacher


Align: TypeAlias = Literal["none", "released", "backbone", "paper", "feature"]
"""How the gradients of the label loss and of the teacher's losses are merged (docs/methods.md, Gradient alignment)."""
