"""Methods on one direction a class, from the teacher: its mean features, or the rows of its classifier."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from torch import Tensor, nn

from understudy.heads.means import ClassMeans, mean_features
from understudy.heads.projector import Projector, student_projector
from understudy.interface import Batch, Outputs, Setup
from understudy.methods.method import Method, TeacherPass
from understudy.models.translated import class_rows, classify

MeansSource: TypeAlias = Literal["class_means", "classifier"]
"""The mean feature of each class's training images, or the weights of the teacher's classifier (KD++, ablation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMeansMethod(Method):
    """A method that compares the student's feature, in the teacher's width, with one direction a class."""

    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    uses_labels: ClassVar[bool] = True
    suits_boxes: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    class_balanced: bool = False
    projector: Projector = "released"
    means: MeansSource = "class_means"
    correct_only: bool = False
    """Whether images that the teacher gets wrong are left out of the class means."""
    class_means_augment: bool = False
    """Whether the class means are of images as the first epoch shows them, and rounded to four decimals, as the
    released code has them."""

    @property
    def relates_samples(self) -> bool:
        """With balance: what a sample weighs depends on how many share its class."""
        return self.class_balanced

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the projector (the identity for equal widths) and the teacher's class means."""
        return nn.ModuleDict(
            {
                "project": student_projector(setup, self.projector),
                "means": class_means_head(setup, self.means),
            }
        )

    def needs_prepare(self, heads: nn.ModuleDict) -> bool:
        """Returns whether the class means are still missing."""
        return not class_means(heads).ready

    @property
    def prepares_augmented(self) -> bool:
        """As ``class_means_augment`` says."""
        return self.class_means_augment

    def prepare(
        self, setup: Setup, heads: nn.ModuleDict, batches: Iterable[Batch], teacher: TeacherPass
    ) -> None:
        """Fills the class means from the teacher's features."""
        decimals = 4 if self.class_means_augment else None
        fill_class_means(setup, heads, batches, teacher, correct_only=self.correct_only, decimals=decimals)

    @abstractmethod
    def against(self, feature: Tensor, teacher: Outputs, means: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of features ``(B, D)`` in the teacher's width, given means ``(C, D)``, 0-d."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns :meth:`against` of the batch; of mixed images that of both labels, each with its share."""
        feature, means = heads["project"](student["feature"]), class_means(heads)()
        return batch.over_labels(lambda target: self.against(feature, teacher, means, target))


def class_means_head(setup: Setup, source: MeansSource) -> ClassMeans:
    """Returns the module that keeps one direction a class; it is filled already where that needs no images.

    Raises:
        ValueError: the means given, or the teacher's classifier, are not one row for each of our classes.
    """
    guide = setup.guide
    means = class_rows(guide)[0] if source == "classifier" else setup.class_means
    return ClassMeans(setup.num_classes, guide.classifier.in_features, means)


def class_means(heads: nn.ModuleDict) -> ClassMeans:
    """Returns a term's class means, for the type checker's eyes too."""
    means = heads["means"]
    assert isinstance(means, ClassMeans)
    return means


def fill_class_means(
    setup: Setup,
    heads: nn.ModuleDict,
    batches: Iterable[Batch],
    teacher: TeacherPass,
    *,
    correct_only: bool = False,
    decimals: int | None = None,
) -> None:
    """Averages the teacher's feature over each class in one pass (docs/methods.md, dino).

    Args:
        setup: the teacher and the classes.
        heads: of the term; its ``means`` are filled.
        batches: training images.
        teacher: answers a batch; its ``feature`` is read.
        correct_only: whether images the teacher gets wrong are left out.
        decimals: to which the means are rounded, if they are.

    Warns:
        UserWarning: a class has no image; its mean is zero and no loss pulls towards it.
    """
    means = class_means(heads)
    features = _features(setup, batches, teacher, correct_only)
    found = mean_features(features, setup.num_classes, setup.guide.classifier.in_features)
    means.fill(found if decimals is None else found.round(decimals=decimals))
    absent = (~means.means.any(dim=1)).nonzero().flatten().tolist()
    if absent:
        kind = "correctly classified image" if correct_only else "training image"
        warnings.warn(
            f"no {kind} of class {', '.join(map(str, absent))}: the class mean is zero and pulls nothing",
            stacklevel=2,
        )


def _features(
    setup: Setup, batches: Iterable[Batch], teacher: TeacherPass, correct_only: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        shown = teacher(batch)
        feature, target = shown["feature"], batch.target
        if feature.dim() == 3:  # of proposals, each with the class it was assigned
            feature, target = feature.flatten(0, 1), shown["labels"].flatten()
        if correct_only:
            right = classify(setup.guide, feature).argmax(dim=1) == target
            feature, target = feature[right], target[right]
        yield feature, target
