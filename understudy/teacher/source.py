"""Any view of any training image, as the teacher sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.data.images import ImageSet
from understudy.data.policy import Augment, decoded
from understudy.data.undecoded import Undecoded


class ViewSource:
    """Renders views of training images; the same pixels as :class:`understudy.data.loader.TrainLoader` shows.

    Args:
        image_set: the training images, on the device where the teacher runs, or on the host.
        augment: their views.
        mean: of every channel, in units of the full range (0 to 1).
        std: likewise.
        dtype: of the result: that of the teacher's weights.
        memory_format: of the result.
        device: where the teacher runs; by default where the images lie.
    """

    def __init__(
        self,
        image_set: ImageSet,
        augment: Augment,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | None = None,
    ) -> None:
        self.image_set, self.augment = image_set, augment
        self.device = image_set.device if device is None else device
        """Where the result is."""
        self.mean, self.std = tuple(mean), tuple(std)
        self.dtype, self.memory_format = dtype, memory_format
        self._mean = torch.tensor(self.mean, dtype=torch.float32, device=image_set.device)
        self._std = torch.tensor(self.std, dtype=torch.float32, device=image_set.device)

    def __len__(self) -> int:
        return len(self.image_set)

    def images(self, rows: Tensor, view: Tensor) -> Tensor:
        """Returns one view each of some images ``(B, C, H, W)``, normalised.

        Args:
            rows: positions in the set ``(B,)`` int64.
            view: number of the view ``(B,)`` int64.
        """
        images, place = self.image_set.images, self.image_set.device
        rows = rows.to(place)
        here = rows
        if isinstance(images, Undecoded):
            (images,) = decoded(images, [(rows, view)], self.augment, ahead=False)
            here = torch.arange(len(rows), device=place)
        rendered = self.augment.render(
            images,
            here,
            view.to(place),
            self._mean,
            self._std,
            self.dtype,
            self.memory_format,
            place=rows,
        )
        return rendered.to(self.device)

    def sample(self, count: int) -> Tensor:
        """Returns up to ``count`` images, evenly spread over the set and over the views."""
        count = min(count, len(self))
        number = torch.arange(count)
        return self.images(number * len(self) // count, number * (self.augment.num_views // count))
