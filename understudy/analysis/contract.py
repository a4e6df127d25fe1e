"""What the analyses of a linear head check of its input and parameters."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.contract import check_floating


def check_head(feature: Tensor, weight: Tensor, bias: Tensor | None = None, name: str = "feature") -> None:
    """Checks that features, rows and offsets belong to one linear layer.

    Args:
        feature: the layer's input ``(B, D)``.
        weight: its rows ``(C, D)``.
        bias: its offsets ``(C,)``.
        name: what the caller calls its features.

    Raises:
        ValueError: the shapes do not fit, or features or weight are not floating.
    """
    if feature.dim() != 2 or weight.dim() != 2 or weight.shape[1] != feature.shape[1]:
        raise ValueError(
            f"{name} and weight must have shapes (B, D) and (C, D), got {tuple(feature.shape)} and "
            f"{tuple(weight.shape)}. Pass the head's own input and its weight"
        )
    check_floating(**{name: feature, "weight": weight})
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must have shape ({weight.shape[0]},), as weight has that many rows, "
            f"got {tuple(bias.shape)}. Pass both of one layer"
        )
