"""A safeguard of the losses on vectors and maps: unit vectors at zero."""

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
