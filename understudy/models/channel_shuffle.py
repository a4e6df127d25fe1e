"""Channel shuffle, by which the ShuffleNets let information cross between groups of channels."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """Deals the channels of G groups out in turn: channel i of group g moves to place i · G + g."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` ``(B, C, H, W)``, C a multiple of ``groups``, with its channels in another order."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
