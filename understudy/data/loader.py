"""Loaders: of images that live on the device (a few indexing operations a batch), and of those still encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat

import torch
from torch import Tensor

from understudy.data.boxes import BoxSet, mirrored
from understudy.data.images import ImageSet
from understudy.data.masks import MaskSet
from understudy.data.mix import Mix
from understudy.data.normalisation import normalise
from understudy.data.order import epoch_order
from understudy.data.policy import Augment, decoded, needs_whole
from understudy.data.scale_crop import ScaleCropFlip
from understudy.data.undecoded import Undecoded
from understudy.data.views import NO_AUGMENT, PadCropFlip
from understudy.interface import Batch
from understudy.widest import exact_place


class TrainLoader:
    """Batches of augmented training images, a pure function of ``(seed, epoch, step)``.

    Nothing is remembered between batches: any epoch may be started at any step, and every rank of any number
    of ranks computes the same global order and takes its share of each global batch.
    """

    def __init__(
        self,
        image_set: ImageSet,
        augment: Augment,
        *,
        batch_size: int,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        memory_format: torch.memory_format = torch.contiguous_format,
        mix: Mix | None = None,
        balance: float = 0.0,
    ) -> None:
        """Moves the images to the device (one without float64 gets batches, rendered on the host).

        Images still encoded follow batch by batch.

        Args:
            image_set: what to train on.
            augment: the views of every image.
            batch_size: images a step, over all ranks.
            seed: the data seed: order and views depend on it and on nothing else.
            mean: of every channel, in units of the full range (0 to 1).
            std: likewise.
            device: where batches appear.
            drop_last: leave out an epoch's last batch if it is smaller.
            rank: number of this process.
            world: number of processes.
            parts: into how many parts a batch will be cut (:meth:`shares`). Each part is divided among the processes,
                so that it holds the same images on any number of them.
            memory_format: of the batches' images.
            mix: mixes the images of each global batch.
            balance: how far rare classes are shown more often, 0 to 1 (:func:`understudy.data.order.epoch_order`).

        Raises:
            ValueError: ``batch_size`` is below 1 or below ``world``, ``drop_last`` would leave nothing, images
                without label would have to be balanced, ``augment`` leaves masks or boxes where they were, or takes
                crops of whole images and these are decoded, or nothing says the crops' size.
        """
        _check(batch_size, rank, world)
        if drop_last and batch_size > len(image_set):
            raise ValueError(
                f"train.batch_size must be at most the {len(image_set)} training images with train.drop_last, got "
                f"{batch_size}. Lower it or keep the last batch"
            )
        whole, mirrored_only = NO_AUGMENT, PadCropFlip(pad=0)
        seen_alike = {
            MaskSet: isinstance(augment, ScaleCropFlip) or augment == whole,
            BoxSet: augment in (whole, mirrored_only),
        }
        for kind, alike in seen_alike.items():
            if isinstance(image_set, kind) and not alike:
                raise ValueError(
                    "augment must show images and what is marked on them alike, got "
                    f"{augment!r}. Use ScaleCropFlip for masks, PadCropFlip(0) for boxes"
                )
        if balance and bool((image_set.targets < 0).any()):
            raise ValueError(
                f"data.balance must be 0 where training images have no label, got {balance}. Label them"
            )
        if needs_whole(augment) and image_set.resident:
            raise ValueError(
                f"data.augment.whole must have images that stay in their files, got those of {image_set.name} in "
                "memory. Set data.resident=false, or leave it out"
            )
        if (
            needs_whole(augment)
            and isinstance(image_set.images, Undecoded)
            and image_set.images.image_size is None
        ):
            raise ValueError(
                "data.augment.whole must have data.image_size, the side of the crops, got none. Set it"
            )
        self.device, place = torch.device(device), exact_place(torch.device(device))
        self.image_set = image_set.to(place)
        self.augment, self.mix, self.balance = augment, mix, balance
        self._targets, self._index = image_set.targets.cpu(), image_set.index.cpu()
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        self.rank, self.world, self.parts, self.memory_format = rank, world, parts, memory_format
        self._mean, self._std = _channels(mean, place), _channels(std, place)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        whole, rest = divmod(len(self.image_set), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def global_batch_size(self, step: int) -> int:
        """Returns the number of images of a step over all ranks; an epoch's last step may have fewer."""
        return min(self.batch_size, len(self.image_set) - step * self.batch_size)

    def shares(self, step: int) -> list[tuple[int, ...]]:
        """Returns for each part of a step's batch the number of images of each rank.

        A rank's batch holds its images of the first part, then those of the second, and so on. Parts without any
        image are left out.
        """
        spans = self._spans(step)
        ranks = [[_share(a, b, rank, self.world) for rank in range(self.world)] for a, b in spans]
        return [tuple(rows.stop - rows.start for rows in part) for part in ranks]

    def _spans(self, step: int) -> list[tuple[int, int]]:
        """Returns the first and last position, the latter excluded, of each part of a step in the epoch's order."""
        first = step * self.batch_size
        stop = first + self.global_batch_size(step)
        spans = [_share(first, stop, part, self.parts) for part in range(self.parts)]
        return [(span.start, span.stop) for span in spans if span.stop > span.start]

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Returns an iterator over this rank's batches of an epoch, from ``start_step`` on (both from 0).

        A last batch of fewer images than ranks leaves some ranks a batch of none.

        Raises:
            ValueError: ``start_step`` is not in the epoch.
        """
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(
                f"start_step must be from 0 to {self.steps_per_epoch}, got {start_step}. Start the next epoch"
            )
        return (_there(batch, self.device) for batch in self._batches(epoch, start_step))

    def slices(self, step: int) -> list[slice]:
        """Returns the positions in an epoch's order that are this rank's in a step, one slice for each part."""
        return [_share(a, b, self.rank, self.world) for a, b in self._spans(step)]

    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Returns the positions in the set that an epoch shows, of all ranks, and their views, on the host.

        An image that is shown more than once in an epoch has other views.

        Shape:
            output: ``(n,)`` int64 both, in the epoch's order.
        """
        rows, repetition = epoch_order(self._targets, self.balance, self.seed, epoch)
        epochs = epoch + (repetition << 32)  # beyond any real epoch
        return rows, self.augment.views(self.seed, epochs, self._index[rows])

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        data, steps = self.image_set, range(start_step, self.steps_per_epoch)
        rows, view = self.plan(epoch)
        ready: Iterator[Tensor | None] = repeat(None)
        if isinstance(data.images, Undecoded):
            needed = (self._needed(epoch, step) for step in steps)
            ready = decoded(data.images, ((rows[own], view[own]) for own in needed), self.augment)
        rows_here, view_here = rows.to(data.device), view.to(data.device)
        for step, pixels in zip(steps, ready, strict=False):
            if self.mix is not None:
                yield self._mixed(self.mix, rows_here, view_here, epoch, step, pixels)
                continue
            parts = self.slices(step)
            shown, own = (torch.cat([column[part] for part in parts]) for column in (rows_here, view_here))
            target = _targets(data, self.augment, shown, own)
            yield Batch(self._images(shown, own, pixels), target, data.index[shown], own)

    def _mixed(
        self, mix: Mix, rows: Tensor, view: Tensor, epoch: int, step: int, pixels: Tensor | None
    ) -> Batch:
        """Returns this rank's batch, mixed with partners out of the global batch; every image is rendered once."""
        data, (height, width) = self.image_set, self.image_set.image_size
        needed = self._needed(epoch, step)
        there = needed.to(data.device)
        images = self._images(rows[there], view[there], pixels)
        own, partner = self._own(step), self._partners(mix, epoch, step)
        mine, theirs = (
            images[torch.searchsorted(needed, places).to(data.device)] for places in (own, partner)
        )
        here = own.to(data.device)
        shown, other = rows[here], rows[partner.to(data.device)]
        return Batch(
            mix(mine, theirs, self.seed, epoch, step).contiguous(memory_format=self.memory_format),
            data.targets[shown].long(),
            data.index[shown],
            view[here],
            data.targets[other].long(),
            mix.kept(self.seed, epoch, step, height, width),
        )

    def _own(self, step: int) -> Tensor:
        """Returns the positions in an epoch's order that are this rank's in a step, on the host."""
        return torch.cat([torch.arange(part.start, part.stop) for part in self.slices(step)])

    def _partners(self, mix: Mix, epoch: int, step: int) -> Tensor:
        """Returns the positions of the images that this rank's are mixed with."""
        first = step * self.batch_size
        return (
            first
            + mix.partners(self.seed, epoch, step, self.global_batch_size(step))[self._own(step) - first]
        )

    def _needed(self, epoch: int, step: int) -> Tensor:
        """Returns the positions of all images that this rank's batch is made of, each once, ascending."""
        own = self._own(step)
        return own if self.mix is None else torch.cat((own, self._partners(self.mix, epoch, step))).unique()

    def _images(self, rows: Tensor, view: Tensor, pixels: Tensor | None) -> Tensor:
        """Returns views of images, out of the resident set or of those that were decoded for them."""
        images, here = self.image_set.images, rows
        if pixels is not None:
            images, here = pixels, torch.arange(len(rows), device=pixels.device)
        assert isinstance(images, Tensor)
        return self.augment.render(
            images, here, view, self._mean, self._std, memory_format=self.memory_format, place=rows
        )


class EvalLoader:
    """Batches of a set as it is, in order; may be iterated again and again."""

    def __init__(
        self,
        image_set: ImageSet,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Moves the images to the device (one without float64 gets batches, rendered on the host).

        Images still encoded follow batch by batch.

        Args:
            image_set: what to measure on.
            batch_size: images a step, over all ranks; the last batch may be smaller.
            mean: of every channel, in units of the full range (0 to 1).
            std: likewise.
            device: where batches appear.
            rank: number of this process.
            world: number of processes.
            memory_format: of the batches' images.

        Raises:
            ValueError: ``batch_size`` is below 1 or below ``world``.
        """
        _check(batch_size, rank, world)
        self.device, place = torch.device(device), exact_place(torch.device(device))
        self.image_set = image_set.to(place)
        self.batch_size, self.rank, self.world, self.memory_format = batch_size, rank, world, memory_format
        self._mean, self._std = _channels(mean, place), _channels(std, place)

    def __len__(self) -> int:
        return -(-len(self.image_set) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        data = self.image_set
        starts = range(0, len(data), self.batch_size)
        parts = [
            _share(first, min(first + self.batch_size, len(data)), self.rank, self.world) for first in starts
        ]
        for rows, pixels in zip(parts, data.pixels(parts), strict=False):
            images = normalise(pixels, self._mean, self._std, memory_format=self.memory_format)
            targets = data.targets[rows]  # masks and many labels are kept as bytes
            targets = targets if isinstance(data, BoxSet) else targets.long()
            yield _there(Batch(images, targets, data.index[rows]), self.device)


def _targets(data: ImageSet, augment: Augment, rows: Tensor, view: Tensor) -> Tensor:
    """Returns the labels of views: a number is what it was, masks and boxes are seen as their image is."""
    if isinstance(data, BoxSet):
        assert isinstance(augment, PadCropFlip)
        return mirrored(data.targets[rows], augment, view, data.image_size[1])
    if isinstance(augment, ScaleCropFlip):
        return augment.masks(data.targets, rows, view).long()
    return data.targets[rows].long()


def _there(batch: Batch, device: torch.device) -> Batch:
    """Returns a batch on the device, where it is already unless images are rendered on the host (no float64)."""
    return batch if exact_place(device) == device else batch.each(lambda column: column.to(device))


def _check(batch_size: int, rank: int, world: int) -> None:
    assert 0 <= rank < world
    if batch_size < world:
        raise ValueError(
            f"batch_size must be at least 1 for each of {world} processes, got {batch_size}. "
            "Raise it: it counts over all of them"
        )


def _share(first: int, stop: int, rank: int, world: int) -> slice:
    """Returns part ``rank`` of ``world`` of positions ``[first, stop)``: contiguous, sizes within 1 of each other."""
    size = stop - first
    return slice(first + size * rank // world, first + size * (rank + 1) // world)


def _channels(values: Sequence[float], device: torch.device | str) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
