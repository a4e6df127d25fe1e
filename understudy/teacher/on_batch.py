"""A teacher whose batch norms take the statistics of the batch, as OFD's authors run it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_SIGNATURE = inspect.signature(F.batch_norm)


class BatchStatistics(TorchFunctionMode):
    """While it is entered, every batch norm normalises by the batch it is given; running statistics stay as they are.

    The network is in eval mode all the while, so that nothing but its batch norms behaves as in training. Within
    :class:`understudy.engine.synced_norm.SyncedNorms` the batch is that of all processes.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answers a batch norm; lets everything else be."""
        del types
        if func is F.batch_norm:
            given = _SIGNATURE.bind(*args, **(kwargs or {})).arguments
            return F.batch_norm(**given | {"running_mean": None, "running_var": None, "training": True})
        return func(*args, **(kwargs or {}))
