"""An exponential moving average of what a module holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """Keeps ``decay``-weighted averages of floating parameters and buffers; other buffers are copied.

    The average follows the weights from their initial values; there is no bias correction, since it starts from a state
    that is itself a model.
    """

    def __init__(
        self, state: Callable[[], Mapping[str, Tensor]], decay: float, names: Iterable[str] | None = None
    ) -> None:
        """Starts from the present state.

        Args:
            state: returns the live tensors whose average is kept, as a module's ``state_dict`` does.
            decay: share of the old average that is kept in a step, 0 to 1.
            names: entries of the state to average; all by default.
        """
        self.state = state
        self.decay = decay
        now = state()
        self.average = {name: now[name].detach().clone() for name in (now if names is None else names)}

    @torch.no_grad()
    def update(self) -> None:
        """Takes one step towards the present state."""
        state = self.state()
        floating = [name for name, tensor in self.average.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage] (as torch.optim itself does)
            [self.average[n] for n in floating], [state[n].detach() for n in floating], 1.0 - self.decay
        )
        _copy({name: state[name] for name in self.average.keys() - set(floating)}, self.average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Lends the averages to whom the state belongs."""
        state = self.state()
        before = {name: state[name].detach().clone() for name in self.average}
        _copy(self.average, state)
        try:
            yield
        finally:
            _copy(before, state)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the averages."""
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes saved averages."""
        _copy({name: state[name] for name in self.average}, self.average)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        places[name].copy_(value)
