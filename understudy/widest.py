"""What a device can do: the widest floating type that it has, for sums over many steps and small differences.

That is float64 everywhere but on Apple's MPS, which has none. This is the one place that knows. On such a device
everything that needs no gradient and is drawn, counted or rendered exactly stays on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

NARROW = {"mps"}
"""Kinds of devices without float64."""


def has_float64(device: torch.device) -> bool:
    """Returns whether a device has float64."""
    return device.type not in NARROW


def widest(device: torch.device) -> torch.dtype:
    """Returns float64, on a device that has none float32.

    Example:
        >>> import torch
        >>> from understudy.widest import widest
        >>> widest(torch.device("cpu")), widest(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float64 if has_float64(device) else torch.float32


def widen(x: Tensor) -> Tensor:
    """Returns ``x`` in the widest type of its device, for short sums whose small differences are what counts.

    Float64 is also what keeps TF32 and bf16 out of a matrix product without touching the process-wide switches that
    allow them; MPS has no TF32.
    """
    return x.to(widest(x.device))


def widened(x: Tensor) -> Tensor:
    """Returns half precision in float32, other types as they are."""
    return x.float() if x.element_size() < 4 else x


def exact_place(device: torch.device) -> torch.device:
    """Returns where float64 is to be had: the device itself, or the host."""
    return device if has_float64(device) else torch.device("cpu")
