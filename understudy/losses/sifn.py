"""SIFN: let the norm of the feature grow by a step (an ablation of KD++)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.losses.contract import check_same_shape, full_precision, reduce


@full_precision()
def sifn_loss(student_feature: Tensor, previous_feature: Tensor, step: float = 1.0) -> Tensor:
    r"""Returns :math:`(\|f\| - \|f_{prev}\| - step)^2`, averaged over the batch.

    Args:
        student_feature: what learns.
        previous_feature: whose norm is to be exceeded; detached. The student's own feature of this batch (a
            constant pull outwards), or that of an earlier snapshot.
        step: by how much the norm shall exceed it, in units of the feature.

    Returns:
        0-d tensor, from 0 up; a zero feature passes no gradient.

    Raises:
        ValueError: features are not ``(B, D)`` of one shape or not floating.

    Shape:
        student_feature, previous_feature: ``(B, D)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import sifn_loss
        >>> feature = torch.tensor([[3.0, 4.0]])
        >>> float(sifn_loss(feature, feature, step=2.0))
        4.0

    Reference: Improving Knowledge Distillation via Regularizing Feature Direction and Norm (KD++), Eq. 4.
    Deviation: the equation adds the step to the feature vector itself, which does not raise a norm; the
    method it cites compares norms, and so does this.
    """
    check_same_shape(student_feature, previous_feature, rank=2, names=("student", "previous"))
    norm = torch.linalg.vector_norm(student_feature, dim=1)
    previous = torch.linalg.vector_norm(previous_feature, dim=1)
    return reduce((norm - previous - step).square(), "mean")
