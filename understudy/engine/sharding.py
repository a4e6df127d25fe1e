"""Networks whose parameters are divided, row by row, among the processes: torch's FSDP2."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from understudy.engine.distributed import Ranks
from understudy.taps import without_hooks

PIECES = 8
"""A network is put together from its parts piece by piece, none much larger than this share of it."""


def divide(module: nn.Module, device: torch.device) -> None:
    """Leaves each process its rows of every parameter, in place; whoever runs the module must do so on all processes.

    A piece is put together when the module runs, and given back after it. The numbers are those of the whole module.

    Args:
        module: anywhere; it ends up on ``device``.
        device: of this process.
    """
    from torch.distributed.device_mesh import init_device_mesh  # here: a torch without processes has neither
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (Ranks().world,))
    with torch.no_grad():
        for parameter in module.parameters():  # FSDP2 refuses other layouts
            parameter.data = parameter.data.contiguous()
    for piece in _pieces(module, sum(p.numel() for p in module.parameters()) / PIECES):
        fully_shard(piece, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)  # a root keeps everything by default


def _pieces(module: nn.Module, largest: float) -> Iterator[nn.Module]:
    """Yields the parts of a module that are put together one at a time; what is left belongs to the module itself."""
    for child in module.children():
        size = sum(p.numel() for p in child.parameters())
        if size > largest and any(True for _ in child.children()):
            yield from _pieces(child, largest)
        elif size > largest / PIECES:
            yield child


class Shards:
    """A module of which each process trains its rows.

    What an optimiser, a moving average and a checkpoint see are plain tensors: the process's own rows, which share
    their memory with what FSDP2 puts together.

    Args:
        module: the same on all processes.
        device: of this process.
        ranks: the processes.
    """

    def __init__(self, module: nn.Module, device: torch.device, ranks: Ranks) -> None:
        self.module, self.ranks = module, ranks
        self.device = device
        self.plain = without_hooks(module).cpu()
        """A whole copy on the host, of other weights."""
        lengths = {name: len(p) for name, p in module.named_parameters()}
        divide(module, device)
        self._parameters: dict[str, Any] = dict(module.named_parameters())
        with torch.no_grad():
            self.own = {
                name: nn.Parameter(p.to_local(), p.requires_grad) for name, p in self._parameters.items()
            }
        """This process's rows of every parameter."""
        self._counts = {name: _rows(length, ranks.world) for name, length in lengths.items()}

    def backward(self, loss: Tensor, logits: Tensor, last: bool) -> None:
        """Differentiates a loss; at the last part of a batch the own rows get the mean of all processes' gradients.

        Args:
            loss: of this process.
            logits: what the module returned. FSDP2 hears of the backward through it, so the loss must reach it.
            last: whether the batch ends with this part.
        """
        self.module.set_requires_gradient_sync(last)  # pyright: ignore[reportCallIssue]
        (loss + 0.0 * logits.sum()).backward()
        if not last:
            return
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                own, gradient = self.own[name], parameter.grad.to_local()
                own.grad = gradient if own.grad is None else own.grad + gradient
                parameter.grad = None

    def whole(self, name: str, rows: Tensor) -> Tensor:
        """Returns everybody's rows of what belongs to a parameter, as one tensor; collective."""
        return self.ranks.gather(rows, self._counts[name])

    def part(self, name: str, whole: Tensor) -> Tensor:
        """Returns the own rows of what belongs to a parameter."""
        counts, rank = self._counts[name], self.ranks.rank
        return whole.narrow(0, sum(counts[:rank]), counts[rank])

    @contextmanager
    def assembled(self) -> Iterator[None]:
        """Puts the whole module together, so that each process may run it as often as it likes; collective."""
        self._each(lambda piece: piece.set_reshard_after_forward(False, recurse=False))
        self._each(lambda piece: piece.unshard())
        try:
            yield
        finally:
            self._each(lambda piece: piece.reshard())
            self._each(lambda piece: piece.set_reshard_after_forward(True, recurse=False))

    def _each(self, function: Callable[[Any], object]) -> None:
        from torch.distributed.fsdp import FSDPModule

        for piece in self.module.modules():
            if isinstance(piece, FSDPModule):
                function(piece)


def _rows(length: int, world: int) -> tuple[int, ...]:
    """Returns how many rows of a parameter each process holds: as :func:`torch.chunk` divides them."""
    size = -(-length // world)
    return tuple(min(size, max(0, length - rank * size)) for rank in range(world))


def optimizer_state(
    state: Mapping[str, Any],
    names: list[str],
    change: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
) -> dict[str, Any]:
    """Returns an optimiser's state with what belongs to each parameter changed.

    Args:
        state: ``state_dict()`` of an optimiser.
        names: of its parameters, in order.
        change: is given tensors of the parameters' shapes, by parameter.
    """
    changed = {
        number: {
            key: change({names[number]: value})[names[number]]
            if isinstance(value, Tensor) and value.dim()
            else value
            for key, value in kept.items()
        }
        for number, kept in state["state"].items()
    }
    return {**state, "state": changed}
