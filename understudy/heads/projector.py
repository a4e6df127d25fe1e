"""The projector of the losses on feature vectors: the student's feature in the teacher's width."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import nn

from understudy.interface import Setup

Projector: TypeAlias = Literal["released", "paper"]
"""The projector of KD++'s released code, or of its paper."""


def feature_projector(in_features: int, out_features: int, kind: Projector = "released") -> nn.Module:
    """Returns the projection of a feature vector; the identity where both widths agree.

    Args:
        in_features: width of the student's feature.
        out_features: width of the teacher's feature.
        kind: ``released`` is BatchNorm, Dropout(.5), Linear; ``paper`` is Linear, BatchNorm.

    Shape:
        ``(B, D_s)`` -> ``(B, D_t)``.

    Reference: Wang et al., Improving Knowledge Distillation via Regularizing Feature Direction and Norm (KD++),
    App. A and released code for CIFAR. The linear layer keeps PyTorch's initialisation of the weight, its bias starts
    at 0; released ImageNet code draws the weight from N(0, .01).
    """
    if in_features == out_features:
        return nn.Identity()
    linear = nn.Linear(in_features, out_features)
    nn.init.zeros_(linear.bias)
    if kind == "paper":
        return nn.Sequential(linear, nn.BatchNorm1d(out_features))
    return nn.Sequential(nn.BatchNorm1d(in_features), nn.Dropout(0.5), linear)


def student_projector(setup: Setup, kind: Projector) -> nn.Module:
    """Returns :func:`feature_projector` from the student's feature to the teacher's.

    Raises:
        ValueError: a network has no linear head, so that it has no feature either.
    """
    return feature_projector(setup.student.classifier.in_features, setup.guide.classifier.in_features, kind)
