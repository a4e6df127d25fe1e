"""Measuring networks on a set of images, whatever the task: scores, what is confused with what, agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.engine.evaluate import Answers, Shard, answers
from understudy.interface import Batch
from understudy.metrics import (
    average_precision,
    class_iou,
    confusion_matrix,
    correct,
    detection_scores,
    label_counts,
    micro_f1,
    per_class_accuracy,
    top1_agreement,
)
from understudy.tasks import Task

MOST_CONFUSED = 2_000
"""Of more classes no confusion matrix is kept: it grows with their square, and its file to gigabytes."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one network is worth on a set."""

    scores: dict[str, float]
    """In percent: ``acc1`` and ``acc5``, ``map`` and ``f1``, ``miou`` and ``pixel_acc``, or ``ap``, ``ap50``, ``ap75``
    and so on."""
    samples: int
    """How many answers were judged: images, labels that are known, labelled pixels."""
    confusion: Tensor | None
    """``(C, C)`` int64: samples (labelled pixels) of each class, a row, by the class they were given; ``None`` where a
    sample may have several, of objects, and of more than :data:`MOST_CONFUSED` classes."""
    by_class: list[float | None]
    """Accuracy (average precision, intersection over union) of every class in percent, ``None`` for one that does not
    occur."""
    agreement: float | None
    """Share of the samples on which the first network decides the same, in percent; ``None`` for itself."""
    answers: Answers | None = None
    """All logits, where an image has one row of them."""


@torch.no_grad()
def measure(
    task: Task,
    networks: Mapping[str, Callable[[Tensor], Tensor]],
    batches: Iterable[Batch],
    num_classes: int,
    device: torch.device,
) -> dict[str, Measured]:
    """Returns what every network is worth, by its name; all must be in eval mode.

    With :class:`Shard` for batches it is collective, and every process gets the result for the whole set. Pixels are
    counted, not averaged, and images and objects are judged all together, so that no division of the set changes a
    number.
    """
    if task.name == "classification":
        return _of_images(networks, batches)
    if task.name == "multilabel":
        return _of_labels(task, networks, batches)
    if task.name == "detection":
        return _of_objects(networks, batches, num_classes)
    return _of_pixels(task, networks, batches, num_classes, device)


def _of_images(
    networks: Mapping[str, Callable[[Tensor], Tensor]], batches: Iterable[Batch]
) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for name, network in networks.items():
        shown = answers(network, batches)
        first = next((m.answers for m in found.values()), None)
        agreement = None if first is None else 100 * float(top1_agreement(first.logits, shown.logits))
        first_place, first_five = correct(shown.logits, shown.target, (1, 5)).tolist()
        count = len(shown.target)
        scores = {"acc1": 100 * first_place / count, "acc5": 100 * first_five / count}
        classes = shown.logits.shape[1]
        each = per_class_accuracy(shown.logits, shown.target).tolist()
        by_class = [None if math.isnan(share) else 100 * share for share in each]
        table = confusion_matrix(shown.logits, shown.target) if classes <= MOST_CONFUSED else None
        found[name] = Measured(scores, count, table, by_class, agreement, shown)
    return found


def _of_labels(
    task: Task, networks: Mapping[str, Callable[[Tensor], Tensor]], batches: Iterable[Batch]
) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for name, network in networks.items():
        shown = answers(network, batches)
        agreement, first = None, next((m.answers for m in found.values()), None)
        if first is not None:
            same, decided = task.agreement(first.logits, shown.logits, shown.target).tolist()
            agreement = 100 * same / decided
        precision, counts = (
            average_precision(shown.logits, shown.target),
            label_counts(shown.logits, shown.target),
        )
        scores = {"map": 100 * float(precision.nanmean()), "f1": 100 * micro_f1(counts)}
        found[name] = Measured(scores, int(counts.sum()), None, _in_percent(precision), agreement, shown)
    return found


def _in_percent(shares: Tensor) -> list[float | None]:
    """Returns shares of classes in percent, ``None`` for NaN."""
    return [None if math.isnan(share) else 100 * share for share in shares.tolist()]


def _of_objects(
    networks: Mapping[str, Callable[[Tensor], Tensor]], batches: Iterable[Batch], num_classes: int
) -> dict[str, Measured]:
    """``num_classes`` is without the background."""
    found: dict[str, Measured] = {}
    for name, network in networks.items():
        seen = answers(network, batches)
        scores, by_class = detection_scores(seen.logits, seen.target, num_classes)
        found[name] = Measured(scores, len(seen.target), None, by_class, None)
    return found


def _of_pixels(
    task: Task,
    networks: Mapping[str, Callable[[Tensor], Tensor]],
    batches: Iterable[Batch],
    num_classes: int,
    device: torch.device,
) -> dict[str, Measured]:
    tallies = {name: task.tally(num_classes, device) for name in networks}
    agreed = {name: torch.zeros(2, dtype=torch.int64, device=device) for name in networks}
    for batch in batches:
        first = None
        for name, network in networks.items():
            logits = network(batch.images).float()
            first = logits if first is None else first
            tallies[name].add(logits, batch.target)
            agreed[name] += task.agreement(first, logits, batch.target)
    found: dict[str, Measured] = {}
    for name, tally in tallies.items():
        if isinstance(batches, Shard):
            for counts in (*tally.tensors.values(), agreed[name]):
                batches.ranks.total(counts)
        same, judged = agreed[name].tolist()
        table = tally.tensors["confusion"].cpu()
        agreement = 100 * same / max(judged, 1) if found else None
        found[name] = Measured(
            tally.scores(), int(table.sum()), table, _in_percent(class_iou(table)), agreement
        )
    return found
