"""The throw-away classifier of the dual-head methods."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn


def auxiliary_head(
    kind: Literal["linear", "mlp"],
    in_features: int,
    num_classes: int,
    hidden: int = 200,
    *,
    per_pixel: bool = False,
) -> nn.Module:
    """Returns a second classifier on the penultimate feature.

    Args:
        kind: ``linear`` for networks of one family, ``mlp`` for others (DHKD App. F).
        in_features: D, width of the student's feature.
        num_classes: C, length of the teacher's logits.
        hidden: width of the MLP's hidden layer.
        per_pixel: whether the feature is a map and every pixel is classified (layers become 1×1 convolutions).

    Shape:
        feature ``(B, D)`` -> logits ``(B, C)``; per pixel ``(B, D, H, W)`` -> ``(B, C, H, W)``.

    Reference: Yang et al., Dual-Head Knowledge Distillation, App. F. The paper says "one hidden layer of 200"; dropout
    and batch normalisation are in the released code alone (docs/methods.md, dhkd) and are kept.
    """
    layer = partial(nn.Conv2d, kernel_size=1) if per_pixel else nn.Linear
    if kind == "linear":
        return layer(in_features, num_classes)
    return nn.Sequential(
        layer(in_features, hidden),
        nn.Dropout(0.1),
        nn.BatchNorm2d(hidden) if per_pixel else nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        layer(hidden, num_classes),
    )
