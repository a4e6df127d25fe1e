"""The throw-away classifier of the dual-head methods."""

from __future__ import annotations

from typing import Literal

from torch import nn


def auxiliary_head(
    kind: Literal["linear", "mlp"], in_features: int, num_classes: int, hidden: int = 200
) -> nn.Module:
    """Returns a second classifier on the penultimate feature.

    Args:
        kind: ``linear`` for networks of one family, ``mlp`` for others (DHKD App. F).
        in_features: D, width of the student's feature.
        num_classes: C, length of the teacher's logits.
        hidden: width of the MLP's hidden layer.

    Shape:
        feature ``(B, D)`` -> logits ``(B, C)``.

    Reference: Yang et al., Dual-Head Knowledge Distillation, App. F. The paper says "one hidden layer of 200"; dropout
    and batch normalisation are in the released code alone (docs/methods.md, dhkd) and are kept.
    """
    if kind == "linear":
        return nn.Linear(in_features, num_classes)
    return nn.Sequential(
        nn.Linear(in_features, hidden),
        nn.Dropout(0.1),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, num_classes),
    )
