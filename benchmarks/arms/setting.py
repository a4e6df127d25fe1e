"""What an arm is told: the same config whatever the arm, so that nobody can be given an easier task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from understudy.config import Config, load_config

Tick = Callable[[Tensor, int], None]
"""Called after every step with a number of the step (its loss) and the images it took; returns when to go on."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A job for one arm."""

    arm: str
    """Key of ``ARMS``."""
    config: dict[str, Any]
    """An ordinary config of the library; the other arms read the same keys."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted keys on top; one that this version of the library does not know is left out (see :meth:`unknown`)."""
    images: int = 50_000
    """Size of the synthetic training set."""
    aux: str | None = None
    """File with the first weights of the auxiliary head."""
    views: Literal["own", "library"] = "own"
    """Whether ``released`` and ``eager`` draw order and views in their own way, or see what the library sees."""
    warm_steps: int = 0
    """Above 0: go over the first so many steps of an epoch again and again, the first time before any tick, so that
    the library's table knows all answers."""

    def read(self) -> Config:
        """Returns the config with the overrides."""
        config = load_config(self.config)
        return config.replaced(**{k: v for k, v in self.overrides.items() if knows(config, k)})

    def unknown(self) -> list[str]:
        """Returns the overrides that were left out, so that older versions can be measured, and it is said."""
        config = load_config(self.config)
        return [key for key in self.overrides if not knows(config, key)]


def knows(config: Config, key: str) -> bool:
    """Returns whether a dotted key is there in a config."""
    place: Any = config.model_dump()
    for part in key.split("."):
        if not isinstance(place, dict) or part not in place:
            return False
        place = place[part]
    return True
