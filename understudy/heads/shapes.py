"""The shape of a role as the map losses read it."""

from __future__ import annotations

import torch

from understudy.heads.tokens import as_map
from understudy.interface import Network


def map_shape(network: Network, role: str) -> tuple[int, int, int]:
    """Returns channels, height and width of a role for one image, tokens laid out as a map.

    Args:
        network: as described by :func:`understudy.taps.describe`.
        role: a stage or pre-activation, ``stage_last``.

    Raises:
        ValueError: the network does not show the role, or it is neither a map nor a square of tokens.

    Example:
        >>> from torch import nn
        >>> from understudy.heads.shapes import map_shape
        >>> from understudy.interface import Network
        >>> map_shape(Network(nn.Identity(), None, {}, {"stage_1": (197, 384)}), "stage_1")
        (384, 14, 14)
    """
    if role not in network.shapes:
        raise ValueError(
            f"{type(network.module).__name__} must show {role!r}, got none. Name its module in the config, "
            f"e.g. taps: {{{role}: PATH}}; found: {', '.join(network.shapes)}"
        )
    channels, height, width = as_map(torch.empty((1, *network.shapes[role]), device="meta")).shape[1:]
    return channels, height, width
