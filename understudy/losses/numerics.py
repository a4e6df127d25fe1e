"""Safeguards of the losses on vectors and maps: unit vectors at zero, sums no TF32 can touch."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(x: Tensor, dim: int = -1, eps: float = 1e-12) -> Tensor:
    """Returns ``x / max(‖x‖, eps)`` along ``dim``; the zero vector stays zero and gets no gradient.

    Dividing the zero vector by ``eps`` would give the right value and a gradient of 1e12.

    Args:
        x: what to scale to length 1.
        dim: the dimension that holds the components of a vector.
        eps: smallest length that is divided by.

    Returns:
        A tensor of the shape of ``x``.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / torch.where(norm > 0, norm.clamp(min=eps), torch.inf)


def widen(x: Tensor) -> Tensor:
    """Returns ``x`` in float64, for short sums whose small differences are the loss.

    Float64 is also what keeps TF32 and bf16 out of a matrix product without touching the process-wide
    switches that allow them. MPS has no float64 (and no TF32): there ``x`` stays as it is.
    """
    return x if x.device.type == "mps" else x.double()
