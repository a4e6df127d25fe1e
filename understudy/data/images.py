"""A labelled set of images: as tensors, or encoded until they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from understudy.data.decode import check_some
from understudy.data.undecoded import Undecoded

MOST_CLASSES = 1_000_000
"""More are no classes, but numbers of images or of moments in a column of the wrong name."""


def check_apart(train: Iterable[Path], test: Iterable[Path]) -> None:
    """Refuses files that are trained on and measured.

    Raises:
        ValueError: with how many there are, and the first.
    """
    shared = {path.resolve() for path in train} & {path.resolve() for path in test}
    if shared:
        raise ValueError(
            f"data.train and data.test must share no image, got {len(shared):,} in both, the first {min(shared)}. "
            "Take them out of one, or use data.val"
        )


def numbered(highest: int, name: str) -> tuple[str, ...]:
    """Returns the names of classes that have only numbers, 0 to ``highest``.

    Raises:
        ValueError: there would be more than :data:`MOST_CLASSES`.
    """
    if highest >= MOST_CLASSES:
        raise ValueError(
            f"labels of {name} must be class numbers from 0, got {highest}. Set data.label_column, or number the "
            "classes from 0"
        )
    return tuple(map(str, range(highest + 1)))


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images of one size with their labels: in memory, on the CPU or on an accelerator, or still encoded."""

    images: Tensor | Undecoded
    """``(N, C, H, W)`` uint8."""
    targets: Tensor
    """``(N,)`` int64 class numbers, -1 for an image without a label."""
    classes: tuple[str, ...]
    """Name of every class; its position is the class number."""
    name: str
    """Where the images come from, for messages."""
    index: Tensor
    """``(N,)`` int64 position in the set as read. Subsets keep it: it means one image in all of them."""
    num_read: int
    """Number of images in the set as read; every ``index`` is below it, as a memory must know."""

    @classmethod
    def read(
        cls,
        images: Tensor | Undecoded,
        targets: Tensor,
        classes: Sequence[str],
        name: str,
        *,
        unlabelled: bool = False,
    ) -> ImageSet:
        """Returns a whole set, as a reader found it, after :meth:`check`."""
        n = len(images)
        return cls(images, targets, tuple(classes), name, torch.arange(n), n).check(unlabelled=unlabelled)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes, also of those without an image."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.images.device

    @property
    def resident(self) -> bool:
        """Whether all images are in memory."""
        return isinstance(self.images, Tensor)

    def pixels(self, parts: Iterable[slice]) -> Iterator[Tensor]:
        """Yields uint8 images ``(B, C, H, W)``, a batch for each part of the positions; encoded ones by workers."""
        if isinstance(self.images, Tensor):
            return (self.images[part] for part in parts)
        return self.images.batches(torch.arange(part.start, part.stop) for part in parts)

    def in_memory(self) -> Tensor:
        """Returns all images ``(N, C, H, W)`` uint8."""
        if isinstance(self.images, Tensor):
            return self.images
        return torch.cat(list(self.pixels(slice(i, min(i + 64, len(self))) for i in range(0, len(self), 64))))

    def subset(self, positions: Tensor) -> ImageSet:
        """Returns the images at ``positions`` ``(K,)`` (int64, in *this* set), in that order."""
        positions = positions.to(self.device)
        return replace(
            self, images=self.images[positions], targets=self.targets[positions], index=self.index[positions]
        )

    def to(self, device: torch.device | str) -> ImageSet:
        """Returns the set with all its tensors on ``device``."""
        return replace(
            self, images=self.images.to(device), targets=self.targets.to(device), index=self.index.to(device)
        )

    def check(self, *, unlabelled: bool = False) -> ImageSet:
        """Returns the set itself if it can be trained on or measured.

        Raises:
            ValueError: there is no image, or a label is not a class number.
        """
        check_some(self.name, len(self))
        lowest = -1 if unlabelled else 0
        wrong = ((self.targets < lowest) | (self.targets >= self.num_classes)).nonzero()
        if len(wrong) > 0:
            first = int(wrong[0])
            raise ValueError(
                f"labels of {self.name} must lie in [0, {self.num_classes}), got {int(self.targets[first])} "
                f"at image {int(self.index[first])}, the first of {len(wrong)} such. "
                "Mend the labels or the list of classes"
            )
        return self
