"""The precision of the analyses: float64 inside, the caller's outside.

An analysis runs once, on numbers that are read as evidence, so it works in float64 whatever it is given:
neither autocast nor TF32 reaches it. From a device without float64 (Apple's MPS) the caller moves tensors to
the CPU first.
"""

from __future__ import annotations

import torch
from torch import Tensor


def float64(tensor: Tensor) -> Tensor:
    """Returns the tensor in float64, detached."""
    return tensor.detach().to(torch.float64)


def result_dtype(*tensors: Tensor) -> torch.dtype:
    """Returns the widest of the inputs' dtypes and float32: what the result is rounded to."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
