"""Images that stay in their files until a batch needs them, decoded by worker processes."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from understudy.data.decode import Box, Source, Stack, check_form, decode_named

Boxes: TypeAlias = Callable[[Tensor, int, int], Tensor]
"""Given numbers of views ``(B,)``, height and width of an image, returns top, left, height and width ``(B, 4)``."""

Resident: TypeAlias = Literal["auto"] | bool
"""Whether decoded images are held in memory."""

_BLOCK = 64  # images decoded at once where nobody says how many
_AT_ONCE = 256  # encoded images held at once on the way into memory
_MOST_WORKERS = 8  # by default
_AHEAD = 2  # batches that each worker prepares
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Sources(Protocol):
    """Encoded images by position; workers are given a copy."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Source:
        """Returns an image as :func:`understudy.data.decode.decode` takes it."""
        ...

    def name(self, position: int) -> str:
        """Returns what messages call the image."""
        ...


class Files:
    """Images by their paths, kept in one buffer, which workers can share whatever they read of it."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = pa.array(
            [os.fsencode(path) for path in paths], pa.large_binary()
        )  # any bytes are a name

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> Source:
        return Path(self.name(position))

    def name(self, position: int) -> str:
        """Returns the path."""
        return os.fsdecode(self._paths[position].as_py())


class Undecoded:
    """Encoded images in the place of an ``(N, C, H, W)`` uint8 tensor.

    The same pixels as :class:`understudy.data.decode.Stack` would hold. :meth:`batches` decodes ahead in processes of
    torch's DataLoader, with pinned memory for a GPU; everything else decodes at once, in this process.
    """

    def __init__(
        self,
        sources: Sources,
        shape: tuple[int, int, int],
        image_size: int | None,
        workers: int,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
        resize: int | None = None,
    ) -> None:
        """Remembers where the images are.

        Args:
            sources: all encoded images.
            shape: channels, height and width of every decoded one.
            image_size: as in :func:`understudy.data.decode.decode`.
            workers: processes that decode; 0: this one does.
            rows: positions in ``sources`` of the images that belong to this set, int64; by default all.
            device: where decoded images appear.
            resize: as in :func:`understudy.data.decode.decode`.
        """
        self.sources, self.image_size, self.workers, self.resize = sources, image_size, workers, resize
        self.device = torch.device(device)
        self._rows = torch.arange(len(sources)) if rows is None else rows
        self.shape = torch.Size((len(self._rows), *shape))

    @property
    def dtype(self) -> torch.dtype:
        """Of decoded images."""
        return torch.uint8

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, positions: Tensor) -> Undecoded:
        """Returns the images at some positions, still encoded."""
        return self._other(self._rows[positions.cpu()], self.device)

    def to(self, device: torch.device | str) -> Undecoded:
        """Returns the same images; decoded ones appear on ``device``."""
        return self._other(self._rows, device)

    def _other(self, rows: Tensor, device: torch.device | str) -> Undecoded:
        return Undecoded(self.sources, self._one, self.image_size, self.workers, rows, device, self.resize)

    def index_select(self, dim: int, positions: Tensor) -> Tensor:
        """Returns decoded images ``(B, C, H, W)`` as ``Tensor.index_select`` would.

        Raises:
            ValueError: an image cannot be read, or has another size.
        """
        assert dim == 0
        blocks = positions.cpu().split(_BLOCK)
        return torch.cat(list(self._decoded((self._rows[part].tolist() for part in blocks), workers=0)))

    def batches(self, positions: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields decoded images ``(B, C, H, W)``, a batch for each of the positions ``(B,)``, in their order.

        Workers end when the iterator is closed or forgotten.

        Raises:
            ValueError: an image cannot be read, or has another size; a worker has died.
        """
        return self._decoded((self._rows[part].tolist() for part in positions), self.workers)

    def views(
        self, shown: Iterable[tuple[Tensor, Tensor]], boxes: Boxes, *, ahead: bool = True
    ) -> Iterator[Tensor]:
        """Yields crops of whole images, scaled to squares: as :meth:`batches`, but not out of centre squares.

        Args:
            shown: positions ``(B,)`` of a batch and the numbers ``(B,)`` of their views.
            boxes: says which crop of an image a view is.
            ahead: whether workers decode; else this process.
        """
        asked = (
            list(zip(self._rows[rows.cpu()].tolist(), view.tolist(), strict=True)) for rows, view in shown
        )
        return self._decoded(asked, self.workers if ahead else 0, boxes)

    @property
    def _one(self) -> tuple[int, int, int]:
        _, channels, height, width = self.shape
        return channels, height, width

    def _decoded(
        self, asked: Iterable[list[Any]], workers: int, boxes: Boxes | None = None
    ) -> Iterator[Tensor]:
        loader = DataLoader(
            _Decoder(self.sources, self._one, self.image_size, self.resize, boxes),
            batch_sampler=asked,  # pyright: ignore[reportArgumentType] (an iterable will do)
            num_workers=workers,
            collate_fn=partial(_stacked, self._one),
            pin_memory=self.device.type == "cuda",
            worker_init_fn=partial(_serve, os.getpid()),
            prefetch_factor=_AHEAD if workers else None,
            generator=torch.Generator(),  # or it would draw from torch's own
        )
        with warnings.catch_warnings():  # Python warns of forks beside threads; these children only decode
            warnings.simplefilter("ignore", DeprecationWarning)
            batches = iter(loader)
        try:
            while (found := _next(batches)) is not None:
                if isinstance(found, str):
                    raise ValueError(found)
                yield found.to(self.device, non_blocking=True)
        finally:
            del batches  # ends the workers


class _Decoder(Dataset[Tensor | str]):
    """What a worker is given: an image by its position (and the number of a view), or what is wrong with it."""

    def __init__(
        self,
        sources: Sources,
        shape: tuple[int, int, int],
        image_size: int | None,
        resize: int | None,
        boxes: Boxes | None,
    ) -> None:
        self.sources, self.shape, self.image_size = sources, shape, image_size
        self.resize, self.boxes = resize, boxes

    def __getitem__(self, asked: int | tuple[int, int]) -> Tensor | str:
        index, crop = asked, None
        if isinstance(asked, tuple):
            assert self.boxes is not None
            index, crop = asked[0], partial(_box, self.boxes, asked[1])
        assert isinstance(index, int)
        where = self.sources.name(index)
        try:
            image = decode_named(
                self.sources[index], where, self.image_size, self.shape[0], self.resize, crop
            )
        except ValueError as error:
            return str(error)
        except Exception as error:  # a source of the user's may raise anything
            return (
                f"{where} must be an image that can be read, got: {error or type(error).__name__}. Replace it"
            )
        if image.shape != self.shape:
            return (
                f"all images must have one size, got {self.shape[2]} x {self.shape[1]} pixels first and "
                f"{image.shape[2]} x {image.shape[1]} in {where}. "
                "Set data.image_size to scale and crop all to one square"
            )
        return torch.from_numpy(image)


def _box(boxes: Boxes, view: int, height: int, width: int) -> Box:
    top, left, h, w = map(int, boxes(torch.tensor([view]), height, width)[0].tolist())
    return left, top, left + w, top + h


def _stacked(shape: tuple[int, int, int], images: list[Tensor | str]) -> Tensor | str:
    """Returns the images of a batch as one tensor, or what is wrong with the first that is wrong."""
    good = []
    for image in images:
        if isinstance(image, str):
            return image
        good.append(image)
    return torch.stack(good) if good else torch.empty(0, *shape, dtype=torch.uint8)


def _next(batches: Iterator[Tensor | str]) -> Tensor | str | None:
    try:
        return next(batches, None)
    except (ConnectionError, EOFError, FileNotFoundError) as error:  # it died while it handed over a batch
        raise ValueError(_died(error)) from error
    except RuntimeError as error:
        if (line := worker_lost(error)) is None:
            raise
        raise ValueError(line) from error


def worker_lost(error: BaseException) -> str | None:
    """Returns one line for what torch raises, wherever this process is, when a worker was killed; else ``None``."""
    words = str(error)
    if not isinstance(error, RuntimeError) or not ("DataLoader worker" in words or "shared memory" in words):
        return None
    return _died(error)


def _died(error: BaseException) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return (
        f"the processes that decode images must live on, got: {reason}. Lower data.workers if memory is short "
        "(a container's /dev/shm counts), or set it to 0"
    )


def _serve(main: int, worker: int) -> None:
    """Leaves signals that reach the whole group of processes to the main one, and ends when that ends.

    A forked worker holds copies of the main process's files, and with them its lock on the run's folder: it must not
    outlive it by the seconds after which torch's own watch would notice.
    """
    del worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != main:  # it had ended before this could be asked for
            os._exit(1)


@dataclass(frozen=True, slots=True)
class Form:
    """How images are decoded, and when."""

    image_size: int | None = None
    """Side of the square images in pixels; ``None``: as they are, all as large as the first."""
    channels: int = 3
    """1 for grey, 3 for colour."""
    max_gib: float = 8.0
    """Memory that the decoded images of one part may take, in GiB."""
    resident: Resident = "auto"
    """``True``: all into memory at once; ``False``: batch by batch; ``auto``: into memory if they fit ``max_gib``."""
    workers: int | None = None
    """Processes that decode batch by batch; ``None``: one for each processor this process may use, at most 8."""
    resize: int | None = None
    """Pixels that the shorter side is scaled to before the centre square is cut out; ``None``: ``image_size``."""

    def stack(self, name: str, count: int) -> Stack:
        """Returns what decodes into memory."""
        return Stack(
            name,
            count,
            image_size=self.image_size,
            channels=self.channels,
            max_gib=self.max_gib,
            resize=self.resize,
        )


def read_images(sources: Sources, name: str, form: Form) -> Tensor | Undecoded:
    """Returns images decoded, ``(N, C, H, W)`` uint8, or still encoded, as ``form`` says.

    Raises:
        ValueError: there is no image, a number is out of range, an image cannot be read, sizes differ, or the images
            do not fit.
    """
    left = leave_encoded(sources, name, form)
    if left is not None:
        return left
    stack = form.stack(name, len(sources))
    for first in range(0, len(sources), _AT_ONCE):
        block = range(first, min(first + _AT_ONCE, len(sources)))
        stack.add([sources[i] for i in block], lambda i, first=first: sources.name(first + i))
    return stack.images()


def leave_encoded(sources: Sources, name: str, form: Form) -> Undecoded | None:
    """Returns the images still encoded, or ``None`` if they are to be decoded into memory.

    ``auto`` leaves them encoded if all of them, decoded to ``N · C · H · W`` bytes, would take more than ``max_gib``.

    Raises:
        ValueError: there is no image, a number is out of range, or the first image cannot be read.
    """
    if form.resident is True:
        return None
    check_form(name, len(sources), form.image_size, form.channels, form.resize)
    if form.image_size is not None:
        shape = (form.channels, form.image_size, form.image_size)
    else:
        _, height, width = decode_named(sources[0], sources.name(0), None, form.channels).shape
        shape = (form.channels, height, width)
    if form.resident == "auto" and len(sources) * math.prod(shape) <= form.max_gib * 2**30:
        return None
    workers = min(cores(), _MOST_WORKERS) if form.workers is None else form.workers
    return Undecoded(sources, shape, form.image_size, workers, resize=form.resize)


def cores() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
