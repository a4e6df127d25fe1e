"""What a term that relates samples sees: the global batch, gathered from all processes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from understudy.engine.distributed import Share
from understudy.interface import Batch, Outputs


class GlobalBatch:
    """The global batch of a divided one; every tensor is gathered once, when a term first reads it.

    Where the batch is not divided it is the batch itself, and nothing is gathered.
    """

    def __init__(self, share: Share, batch: Batch) -> None:
        self._share = share
        # by identity of what was gathered, which is kept alive so that its number is nobody else's
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}
        self.batch = batch
        """Of a divided batch the images are the own ones: no relation reads them, and they are large."""
        if share.divided:
            target, index, view, partner = (
                None if column is None else share.ranks.gather(column, share.counts)
                for column in (batch.target, batch.index, batch.view, batch.partner)
            )
            assert target is not None
            self.batch = Batch(batch.images, target, index, view, partner, batch.kept)

    def shown(self, outputs: Outputs, roles: Iterable[str]) -> Outputs:
        """Returns what a network showed of all images, in the roles that a term reads."""
        if not self._share.divided:
            return outputs
        return {role: self._all(outputs[role]) for role in outputs if _is_read(role, roles)}

    def _all(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._gathered:
            self._gathered[id(tensor)] = (tensor, self._share.gather(tensor))
        return self._gathered[id(tensor)][1]


def _is_read(role: str, roles: Iterable[str]) -> bool:
    """Returns whether a role is among those asked for; ``stage_*`` stands for all stages."""
    return any(role == asked or (asked.endswith("*") and role.startswith(asked[:-1])) for asked in roles)
