"""Labels made wrong on purpose, always the same ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import torch

from understudy.data.counter import Stream, integers, uniform
from understudy.data.images import ImageSet

NoiseKind: TypeAlias = Literal["symmetric", "pair"]


def noisy_labels(images: ImageSet, share: float, seed: int = 0, kind: NoiseKind = "symmetric") -> ImageSet:
    """Returns a set in which about ``share`` of the labels are wrong.

    Every label is wrong with that probability, on its own. Which labels, and what they become, depends on
    ``(seed, index)`` alone: a larger share keeps the wrong labels of a smaller one. Images without label keep none.

    Args:
        images: with the labels as read.
        share: from 0 to 1.
        seed: of the choice.
        kind: ``symmetric``: any other class, each equally likely; ``pair``: the next class (of the last, the first).

    Raises:
        ValueError: ``share`` is not in [0, 1].

    Reference: symmetric: van Rooyen et al., Learning with Symmetric Label Noise, NeurIPS 2015; pair: Han et al.,
        Co-teaching, NeurIPS 2018.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of wrong labels must lie in [0, 1], got {share}. 0.2 is usual")
    other = integers(images.num_classes - 1, seed, Stream.LABEL_NOISE, 1, images.index)
    if kind == "pair":
        other = torch.zeros_like(other)
    moved = (uniform(seed, Stream.LABEL_NOISE, 0, images.index) < share) & (images.targets >= 0)
    wrong = (images.targets + 1 + other) % images.num_classes
    return replace(images, targets=torch.where(moved, wrong, images.targets))
