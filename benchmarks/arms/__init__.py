"""The arms: programs that train in a loop and call `tick` after every step. Each runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

from . import augment, convolutions, eager, evaluate, library, released
from .setting import Setting, Tick

ARMS: dict[str, Callable[[Setting, Tick], None]] = {
    "augment": augment.render,
    "convolutions": convolutions.convolve,
    "eager": eager.train,
    "evaluate": evaluate.evaluate,
    "library": library.train,
    "released": released.train,
}
"""Name -> what runs until its process ends."""
