"""A teacher whose batch norms take the statistics of the batch, as OFD's authors run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


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
            return _by_the_batch(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _by_the_batch(
    input: Tensor,  # noqa: A002 (torch's own names: they come as keywords)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    del running_mean, running_var, training
    return F.batch_norm(input, None, None, weight, bias, True, momentum, eps)
