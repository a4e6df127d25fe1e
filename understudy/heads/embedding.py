"""One linear embedding for each network's feature, both trained (CRD, CC)."""

from __future__ import annotations

from torch import nn

from understudy.interface import Setup


def feature_embeddings(setup: Setup, width: int) -> dict[str, nn.Module]:
    """Returns ``student`` and ``teacher``: linear layers from each network's feature to a common space.

    Args:
        setup: both networks; their features' widths may differ.
        width: E, width of the common space.

    Shape:
        ``(B, D_s)`` and ``(B, D_t)`` -> ``(B, E)``.

    Raises:
        ValueError: a network has no linear head, so that it has no feature either.

    Reference: Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020, authors' code; PyTorch's
    initialisation.
    """
    return {
        "student": nn.Linear(setup.student.classifier.in_features, width),
        "teacher": nn.Linear(setup.guide.classifier.in_features, width),
    }
