"""The processes that train one model together: what they tell each other, and which part of a batch each one holds.

Every process evaluates losses whose *mean over the processes* is the loss of the global batch. So gradients are
averaged (:mod:`understudy.engine.reduction`), as DistributedDataParallel averages them, too:

- a loss over single samples is the mean over the own images, times own images / (all images / processes);
- a loss that relates samples is evaluated on the global batch by every process alike. What it reads is gathered; the
  gradient of the gathered tensor is that of the own rows times the number of processes, which is the sum over all
  processes without asking them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from understudy.data.counter import step_seed
from understudy.engine.synced_norm import SyncedNorms
from understudy.interface import Batch, Outputs

T = TypeVar("T")

LEAST = 2
"""Images a process must hold for a batch to be divided: batch norms and relations need two."""


class OtherProcessError(ValueError):
    """Another process failed, and says why itself."""


class Ranks:
    """This process among those of torch's default group; without a group, the only one.

    All methods but the properties are collective: every process must call them, in one order. The only process talks
    to nobody.
    """

    def __init__(self) -> None:
        self._base, self._calls = 0, 0

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    @property
    def world(self) -> int:
        """Number of processes."""
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks for all."""
        return self.rank == 0

    def exchange(self, value: T) -> list[T]:
        """Returns everybody's value (anything that pickles), in the order of the ranks."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def together(self, function: Callable[[], T]) -> T:
        """Returns what ``function`` gives here, once it has succeeded everywhere.

        Raises:
            OtherProcessError: it failed elsewhere. Where it failed, its own error is raised; where all fail alike, the
                first process does so for all.
        """
        if not self.several:
            return function()
        result, failure = None, None
        try:
            result = function()
        except Exception as error:
            failure = error
        words = self.exchange(None if failure is None else str(failure))
        rank = next((rank for rank, said in enumerate(words) if said is not None), None)
        if failure is not None and (rank == self.rank or words[self.rank] != words[rank or 0]):
            raise failure
        if rank is not None:
            raise OtherProcessError(
                f"every process must succeed, got an error from process {rank}: {words[rank]}"
            )
        return result  # pyright: ignore[reportReturnType] (no failure, so there is one)

    def first(self, function: Callable[[], T]) -> T:
        """Returns what ``function`` gives on the first process, the only one to call it; it must pickle.

        Raises:
            OtherProcessError: it failed there. There, its own error is raised.
        """
        value = [self.together(lambda: function() if self.is_first else None)]
        if self.several:
            dist.broadcast_object_list(value, src=0)
        return value[0]  # pyright: ignore[reportReturnType]

    def total(self, tensor: Tensor) -> Tensor:
        """Returns the sum over the processes; the tensor is overwritten by it."""
        if self.several:
            dist.all_reduce(tensor)
        return tensor

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Gives every process the first one's values, in place and in one message."""
        tensors = list(tensors)
        if not self.several or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1).view(torch.uint8) for t in tensors])
        dist.broadcast(flat, src=0)
        sizes = [t.numel() * t.element_size() for t in tensors]
        for tensor, part in zip(tensors, flat.split(sizes), strict=True):
            tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))  # clone: a view must be aligned

    def gather(self, tensor: Tensor, counts: tuple[int, ...]) -> Tensor:
        """Returns everybody's rows, in the order of the ranks, without gradient.

        Args:
            tensor: ``(counts[rank], ...)``.
            counts: rows of each process; may differ, and be 0.
        """
        if not self.several:
            return tensor
        longest = max(counts)
        padding = tensor.new_zeros(longest - len(tensor), *tensor.shape[1:])
        own = torch.cat([tensor.detach(), padding]).contiguous()
        parts = [torch.empty_like(own) for _ in counts]
        dist.all_gather(parts, own)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def share(self, images: Tensor, counts: tuple[int, ...] | None = None) -> Share:
        """Returns which part of the global batch these images are.

        Args:
            images: this process's, ``(B, ...)``.
            counts: B of every process, where it is known; else the processes ask each other, and read the answer on
                the host.
        """
        if not self.several:
            counts = (len(images),)
        elif counts is None:
            own = torch.tensor([len(images)], device=images.device)
            counts = tuple(self.gather(own, (1,) * self.world).tolist())
        return Share(self, counts)

    @contextmanager
    def own_randomness(self, device: torch.device) -> Iterator[None]:
        """Draws random numbers of this process's own; afterwards torch's generators are what they were.

        They depend on torch's seed, on how often in a row this was entered under it, and on the rank.
        """
        base = torch.initial_seed()
        self._base, self._calls = base, self._calls + 1 if base == self._base else 0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(step_seed(base, self._calls, self.rank))
            yield


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of a global batch this process holds."""

    ranks: Ranks
    counts: tuple[int, ...]
    """Images of each process."""

    @property
    def divided(self) -> bool:
        """Whether each process computes its own images."""
        return self.ranks.several and min(self.counts) >= LEAST

    @property
    def repeated(self) -> bool:
        """Whether every process computes the whole batch, because it leaves some of them too few images.

        As a rule that is an epoch's last batch. Nothing is asked of the others then, and no process is without
        samples: batch norms and the tapped network never see an empty batch.
        """
        return self.ranks.several and not self.divided

    @property
    def rows(self) -> slice:
        """Where this process's images are in the global batch."""
        start = sum(self.counts[: self.ranks.rank])
        return slice(start, start + self.counts[self.ranks.rank])

    @property
    def balance(self) -> float:
        """What a mean over the own images is multiplied by, so that the mean over the processes is that over all."""
        if not self.divided:
            return 1.0
        return self.counts[self.ranks.rank] * self.ranks.world / sum(self.counts)

    @property
    def weight(self) -> float:
        """Images this process's losses stand for in a sum over the processes."""
        return sum(self.counts) / self.ranks.world

    def whole(self, batch: Batch) -> Batch:
        """Returns the global batch."""
        return batch.each(lambda column: self.ranks.gather(column, self.counts))

    def whole_answers(self, shown: Outputs) -> Outputs:
        """Returns what a teacher shows of the global batch, of which each process knows its own images'."""
        return {role: self.ranks.gather(shown[role], self.counts) for role in sorted(shown)}

    def gather(self, tensor: Tensor) -> Tensor:
        """Returns the global batch's rows of what a divided batch showed, with gradient for the own ones."""
        return _Gathered.apply(tensor, self)  # pyright: ignore[reportReturnType]

    @contextmanager
    def apart(self, device: torch.device, norms: bool) -> Iterator[None]:
        """Random numbers of the own images' and, with ``norms``, batch norms over all images, if it is divided."""
        if not self.divided:
            yield
            return
        with self.ranks.own_randomness(device), SyncedNorms(self.ranks.world) if norms else nullcontext():
            yield


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, share: Share) -> Tensor:
        ctx.share = share
        return share.ranks.gather(tensor, share.counts)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the names)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        share: Share = ctx.share
        return gradients[0][share.rows] * share.ranks.world, None


class Wishes:
    """Whether any process wants to stop or save, agreed on without waiting: what is wished is heard a step later.

    A process on its own hears itself at once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._on_the_way: tuple[dist.Work, Tensor] | None = None

    def heard(self, *wishes: bool) -> tuple[bool, ...]:
        """Returns what anybody wished a step ago, and sends these wishes; collective."""
        if not self._ranks.several:
            return wishes
        device = "cpu" if "cpu" in dist.get_backend_config() else "cuda"
        before, sent = self._on_the_way, torch.tensor(wishes, dtype=torch.int32, device=device)
        work = dist.all_reduce(sent, dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._on_the_way = (work, sent)
        if before is None:
            return (False,) * len(wishes)
        before[0].wait()
        return tuple(bool(wish) for wish in before[1].tolist())
