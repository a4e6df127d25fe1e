"""One direction a class, from the teacher: its mean features, or the rows of its classifier."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

from understudy.heads.means import ClassMeans, mean_features
from understudy.interface import Batch, Setup
from understudy.methods.method import TeacherPass

MeansSource: TypeAlias = Literal["class_means", "classifier"]
"""The mean feature of each class's training images, or the weights of the teacher's classifier (KD++, ablation)."""


def class_means_head(setup: Setup, source: MeansSource) -> ClassMeans:
    """Returns the module that keeps one direction a class; it is filled already where that needs no images.

    Raises:
        ValueError: the means given, or the teacher's classifier, are not one row a class.
    """
    classifier = setup.guide.classifier
    means = classifier.weight.detach() if source == "classifier" else setup.class_means
    return ClassMeans(setup.num_classes, classifier.in_features, means)


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
    classifier = setup.guide.classifier
    for batch in batches:
        shown = teacher(batch)
        feature, target = shown["feature"], batch.target
        if feature.dim() == 3:  # of proposals, each with the class it was assigned
            feature, target = feature.flatten(0, 1), shown["labels"].flatten()
        if correct_only:
            # by function: calling the module would fire the taps on it
            logits = F.linear(feature.to(classifier.weight.dtype), classifier.weight, classifier.bias)
            right = logits.argmax(dim=1) == target
            feature, target = feature[right], target[right]
        yield feature, target
