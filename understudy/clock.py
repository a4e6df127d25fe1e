"""What time it is once a device has done its work."""

from __future__ import annotations

import time

import torch


def clock(device: torch.device) -> float:
    """Returns seconds, as of ``time.perf_counter``, after everything that was handed to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
