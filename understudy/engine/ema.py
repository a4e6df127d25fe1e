"""An exponential moving average of a module's state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Keeps ``decay``-weighted averages of floating parameters and buffers; other buffers are copied.

    The average follows the weights from their initial values; there is no bias correction, since it starts from a state
    that is itself a model.
    """

    def __init__(self, module: nn.Module, decay: float, names: Iterable[str] | None = None) -> None:
        """Starts from the module's present state.

        Args:
            module: whose state is averaged.
            decay: share of the old average that is kept in a step, 0 to 1.
            names: entries of the state to average; all by default.
        """
        self.module = module
        self.decay = decay
        state = module.state_dict()
        self.average = {name: state[name].detach().clone() for name in (state if names is None else names)}

    @torch.no_grad()
    def update(self) -> None:
        """Takes one step towards the module's present state."""
        state = self.module.state_dict()
        floating = [name for name, tensor in self.average.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage] (as torch.optim itself does)
            [self.average[n] for n in floating], [state[n].detach() for n in floating], 1.0 - self.decay
        )
        for name, tensor in self.average.items():
            if not tensor.is_floating_point():
                tensor.copy_(state[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Lends the averaged state to the module."""
        state = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
        self.module.load_state_dict(state | self.average)
        try:
            yield
        finally:
            self.module.load_state_dict(state)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the averages."""
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes saved averages."""
        for name, tensor in self.average.items():
            tensor.copy_(state[name])
