"""Tokens as maps: what a transformer shows, in the form every map loss reads."""

from __future__ import annotations

import math

from torch import Tensor


def as_map(tensor: Tensor) -> Tensor:
    """Returns the tap as a map; tokens of a square grid are laid out row by row, a map stays what it is.

    Args:
        tensor: a map, or tokens in reading order, one class token in front allowed; it is dropped.

    Returns:
        a view wherever the layout allows one.

    Raises:
        ValueError: neither a map nor tokens, or the tokens (without one in front) form no square.

    Shape:
        tensor: ``(B, C, H, W)``, or ``(B, N, D)`` with N or N - 1 a square; output: ``(B, C, H, W)`` or
        ``(B, D, h, h)``.

    Example:
        >>> import torch
        >>> from understudy.heads.tokens import as_map
        >>> as_map(torch.zeros(2, 197, 384)).shape
        torch.Size([2, 384, 14, 14])
    """
    if tensor.dim() == 4:
        return tensor
    if tensor.dim() != 3:
        raise ValueError(
            f"a tap must be a map (B, C, H, W) or tokens (B, N, D), got {tuple(tensor.shape)}. "
            "Name another module in the config (taps)"
        )
    num, width = tensor.shape[1:]
    side = math.isqrt(num)
    if side * side != num:
        side = math.isqrt(num - 1)
        tensor = tensor[:, 1:]
    if side * side != tensor.shape[1] or side == 0:
        raise ValueError(
            f"tokens must form a square, with at most one class token in front, got {num} tokens. "
            "Use square images and no register tokens, or name a module that shows a map (taps)"
        )
    return tensor.mT.unflatten(2, (side, side)).reshape(tensor.shape[0], width, side, side)
