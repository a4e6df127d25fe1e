"""What target, loss and score mean: images of one class or many, segmentation of their pixels, detection of objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.interface import Network
from understudy.tasks.classification import Classification
from understudy.tasks.detection import Detection
from understudy.tasks.multilabel import MultiLabel
from understudy.tasks.segmentation import Segmentation
from understudy.tasks.task import Tally as Tally
from understudy.tasks.task import Task as Task

TASKS: Mapping[str, Task] = {
    "classification": Classification(),
    "detection": Detection(),
    "multilabel": MultiLabel(),
    "segmentation": Segmentation(),
}
"""Name -> task. A task holds nothing, so one of each is enough."""


def task_of(network: Network, multilabel: bool = False) -> Task:
    """Returns the task of a network: a map of logits classifies pixels, a vector the image; a detector finds objects.

    Args:
        network: what is trained.
        multilabel: whether an image may have several classes, which no network shows.

    Raises:
        ValueError: pixels are classified, and have several classes.

    Example:
        >>> import torch
        >>> from understudy.models import create_model
        >>> from understudy.taps import describe
        >>> from understudy.tasks import task_of
        >>> task_of(describe(create_model("cnn_tiny", num_classes=4), torch.zeros(1, 3, 32, 32))).name
        'classification'
    """
    own = "detection" if network.detects else "segmentation" if network.dense else None
    if multilabel and own is not None:
        raise ValueError(
            f"multilabel must be left out for {own}, got it. Choose a network that classifies images, such as resnet18"
        )
    return TASKS[own or ("multilabel" if multilabel else "classification")]


def task_named(name: object) -> Task:
    """Returns the task of a ``result.json``; older ones, without a name, are of classification."""
    return TASKS[name if isinstance(name, str) and name in TASKS else "classification"]


def held_out_score(line: Mapping[str, Any]) -> str | None:
    """Returns under what name a line of ``metrics.jsonl`` has the held-out score that chooses; ``None`` without one.

    Example:
        >>> from understudy.tasks import held_out_score
        >>> held_out_score({"epoch": 2, "val/pixel_acc": 80.0, "val/miou": 31.5})
        'val/miou'
    """
    return next((name for task in TASKS.values() if (name := f"val/{task.primary}") in line), None)
