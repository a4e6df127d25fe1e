"""The teacher over any (image, view) pairs, always in blocks of one size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from understudy.teacher.frozen import Teacher
from understudy.teacher.layout import DTYPES, Layout
from understudy.teacher.source import ViewSource

CPU_BLOCK = 64
"""Images that stay in a processor's cache; more were slower."""
GPU_BLOCK = 2048
"""Images of 32×32 that keep a GPU busy; of larger ones so many fewer that the pixels are as many."""
LEAST_BLOCK = 32


class Blocks:
    """Answers pairs in blocks of one fixed size, the last one filled up by repeating a pair.

    The last bits of a float32 result depend on the batch size, because libraries choose their kernels by it. With
    one size they depend on the pair alone, neither on its neighbours nor on its place in the block
    (:meth:`is_steady` looks), so it does not matter who asked when: a run that was killed and resumed, or that shares
    a table with others, gets the same bits.

    Args:
        teacher: shows the layout's roles.
        source: of the images.
        layout: of the answers.
        size: images in a block.
    """

    def __init__(self, teacher: Teacher, source: ViewSource, layout: Layout, size: int) -> None:
        assert size > 0
        self.teacher, self.source, self.layout, self.size = teacher, source, layout, size
        self.forwarded = 0
        """Images that went through the teacher, those that filled up blocks included."""
        self.padding = 0
        """Of these, repeated ones."""

    def __call__(self, rows: Tensor, view: Tensor) -> Tensor:
        """Returns the answers as packed rows ``(B, width)``, on the images' device.

        Args:
            rows: positions in the training set ``(B,)`` int64, any number of them.
            view: their views ``(B,)`` int64.
        """
        dtype, device = DTYPES[self.layout.dtype], self.source.device
        answers = torch.empty(len(rows), self.layout.width, dtype=dtype, device=device)
        for part, r, v in zip(
            answers.split(self.size), rows.split(self.size), view.split(self.size), strict=True
        ):
            if len(r):
                part.copy_(self._block(r, v))
        return answers

    def is_steady(self) -> bool:
        """Returns whether pairs keep all their bits when they change places in a block, looked at on one block."""
        rows = torch.arange(self.size) % len(self.source)
        view = torch.arange(self.size) % self.layout.views
        turn = self.size // 3
        straight, turned = self(rows, view), self(rows.roll(turn), view.roll(turn))
        self.forwarded -= 2 * self.size  # a look, no work
        return torch.equal(straight.roll(turn, 0), turned)

    def _block(self, rows: Tensor, view: Tensor) -> Tensor:
        count = len(rows)
        place = torch.arange(self.size).clamp_max(count - 1).to(rows.device)
        images = self.source.images(rows[place], view[place])
        self.forwarded += self.size
        self.padding += self.size - count
        return self.layout.pack(self.teacher.show(images))[:count]


def block_size(
    images: int, device: torch.device, wanted: int | None = None, size: tuple[int, int] = (32, 32)
) -> int:
    """Returns the size of a block: ``wanted``, or what suits the device, evened out so that epochs waste little.

    An epoch of ``images`` is cut into the fewest blocks of at most the device's size, and they are made equal: 160
    images on a CPU are three blocks of 54. It depends on nothing else, so a resumed run finds the same.

    Args:
        images: of an epoch.
        device: where the teacher runs.
        wanted: ``teacher.batch_size``.
        size: height and width of the views, which on a GPU bound the activations' memory.
    """
    if wanted is not None:
        return wanted
    most = CPU_BLOCK
    if device.type == "cuda":
        most = min(GPU_BLOCK, max(LEAST_BLOCK, GPU_BLOCK * 32 * 32 // math.prod(size)))
    count = -(-images // most)
    return -(-images // count)
