"""The parts of a data set, and what all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.data.images import ImageSet
from understudy.data.multilabel import MultiLabelSet
from understudy.data.subsets import balanced, complement, stratified


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """What a run trains on, chooses by and is measured on."""

    train: ImageSet
    val: ImageSet | None
    """Held out of the training images, for every choice."""
    test: ImageSet | None
    """For the last measurement only."""
    mean: tuple[float, ...]
    """Of every channel, in units of the full range (0 to 1)."""
    std: tuple[float, ...]
    wrong_labels: int | None = None
    """How many training labels were made wrong on purpose; ``None`` where that was not asked for."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of every class."""
        return self.train.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.train.num_classes

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.image_size

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.train.channels


def hold_out(train: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """Returns the training set without a share of every class, and that share (``None`` if it is 0).

    Images without a label are never held out. Images with masks are of one kind.

    Raises:
        ValueError: ``share`` is not in [0, 1), or leaves nothing on one of the two sides.
    """
    if not 0 <= share < 1:
        raise ValueError(f"data.val must be a share in [0, 1), got {share}. 0.1 holds out a tenth of train")
    if share == 0:
        return train, None
    kind = kinds(train)
    labelled = (kind >= 0).nonzero()[:, 0]
    count = round(share * len(labelled))
    if not 0 < count < len(train):
        raise ValueError(
            f"data.val must hold out at least one image and leave one, got {count} of {len(train)}. "
            "Choose another share"
        )
    held = labelled[stratified(kind[labelled], count, seed)]
    if isinstance(train, MultiLabelSet) and not (train.targets[held.to(train.targets.device)] == 1).any():
        raise ValueError(
            f"data.val must hold out an image that has a class, got none among {count}. Choose a larger share"
        )
    return train.subset(complement(held, len(train))), train.subset(held)


def keep(train: ImageSet, limit: int | None, seed: int) -> ImageSet:
    """Returns ``limit`` of the images, as many of every class as there are, or all for ``None``.

    Raises:
        ValueError: there are fewer images, or ``limit`` is below 1.
    """
    if limit is None:
        return train
    if not 1 <= limit <= len(train):
        raise ValueError(
            f"data.limit must be from 1 to the {len(train)} training images there are, got {limit}. "
            "Lower it or leave it out"
        )
    return train.subset(balanced(kinds(train), limit, seed))


def labelled(images: ImageSet) -> ImageSet:
    """Returns the images of which something is known; the set itself if that is all of them, perhaps none."""
    known = kinds(images) >= 0
    return images if bool(known.all()) else images.subset(known.nonzero()[:, 0])


def kinds(train: ImageSet) -> Tensor:
    """Returns what a choice of images is balanced over, ``(N,)`` int64, -1 for an image of which nothing is known.

    That is their class; for images with masks or with several classes it is one and the same number.
    """
    if isinstance(train, MultiLabelSet):
        return -(train.targets == -1).all(dim=1).to(torch.int64)
    return train.targets if train.targets.dim() == 1 else torch.zeros(len(train), dtype=torch.int64)


def check_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Checks a given normalisation.

    Raises:
        ValueError: not one number a channel, or a standard deviation that is not above 0.
    """
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"data.mean and data.std must have {channels} numbers, one a channel, got {len(mean)} and "
            f"{len(std)}. Leave both out to have them computed"
        )
    if not all(s > 0 for s in std):
        raise ValueError(f"data.std must be above 0, got {list(std)}. Leave it out to have it computed")
