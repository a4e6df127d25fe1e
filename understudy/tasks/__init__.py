"""What target, loss and score mean: classification of images, segmentation of their pixels, detection of objects."""

from __future__ import annotations

from collections.abc import Mapping

from understudy.interface import Network
from understudy.tasks.classification import Classification
from understudy.tasks.detection import Detection
from understudy.tasks.segmentation import Segmentation
from understudy.tasks.task import Tally as Tally
from understudy.tasks.task import Task as Task

TASKS: Mapping[str, Task] = {
    "classification": Classification(),
    "detection": Detection(),
    "segmentation": Segmentation(),
}
"""Name -> task. A task holds nothing, so one of each is enough."""


def task_of(network: Network) -> Task:
    """Returns the task of a network: a map of logits classifies pixels, a vector the image; a detector finds objects.

    Example:
        >>> import torch
        >>> from understudy.models import create_model
        >>> from understudy.taps import describe
        >>> from understudy.tasks import task_of
        >>> task_of(describe(create_model("cnn_tiny", num_classes=4), torch.zeros(1, 3, 32, 32))).name
        'classification'
    """
    if network.detects:
        return TASKS["detection"]
    return TASKS["segmentation" if network.dense else "classification"]


def task_named(name: object) -> Task:
    """Returns the task of a ``result.json``; older ones, without a name, are of classification."""
    return TASKS[name if isinstance(name, str) and name in TASKS else "classification"]
