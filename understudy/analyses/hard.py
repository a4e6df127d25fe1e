"""Training data made harder on purpose, always in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from torchvision.transforms import v2

from understudy.data.counter import step_seed
from understudy.data.images import ImageSet
from understudy.data.noise import noisy_labels

NOISE = (0.1, 0.2, 0.3)
"""Shares of wrong labels."""

Change: TypeAlias = Callable[[ImageSet, int], ImageSet]
"""Takes a training set and an epoch, returns the set as it is in that epoch."""


def harder() -> dict[str, Change]:
    """Returns the training data as they are, with ever more wrong labels, and strongly augmented."""
    changes: dict[str, Change] = {"as it is": lambda images, _: images}
    for share in NOISE:
        changes[f"{share:.0%} wrong labels"] = partial(_noisy, share)
    return changes | {"strong augmentation": strongly_augmented}


def strongly_augmented(images: ImageSet, epoch: int) -> ImageSet:
    """Returns a set under AutoAugment's policy for CIFAR-10, another view in every epoch, the same ones always.

    Reference: Cubuk et al., AutoAugment, CVPR 2019, as torchvision has it.
    """
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    with torch.random.fork_rng(devices=[]):
        views = []
        for image, index in zip(images.in_memory().cpu(), images.index.tolist(), strict=True):
            torch.manual_seed(step_seed(0, epoch, index))
            views.append(policy(image))
    return replace(images, images=torch.stack(views).to(images.device))


def _noisy(share: float, images: ImageSet, epoch: int) -> ImageSet:
    del epoch  # a label is wrong once and for all
    return noisy_labels(images, share)
