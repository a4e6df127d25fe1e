"""How sure a teacher is of the true class, and the β of DKD that its authors choose by it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from understudy.analysis.precision import float64, result_dtype
from understudy.metrics.contract import check_labelled, check_not_empty


def target_gap(teacher_logits: Tensor, target: Tensor) -> Tensor:
    """Returns the mean distance of the true class's logit from the largest other logit.

    Args:
        teacher_logits: the teacher's logits on the training set, un-augmented, in eval mode.
        target: class numbers.

    Returns:
        0-d tensor, averaged over the samples; negative where the teacher is mostly wrong.

    Raises:
        ValueError: a shape or dtype is wrong, there is no sample, there is one class only.

    Shape:
        teacher_logits: ``(B, C)``; target: ``(B,)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.analysis import target_gap
        >>> float(target_gap(torch.tensor([[5.0, 1.0, 2.0], [0.0, 4.0, 1.0]]), torch.tensor([0, 1])))
        3.0

    Reference: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, the guidance for tuning β.
    """
    check_labelled(teacher_logits, target, "teacher_logits")
    check_not_empty(teacher_logits, "teacher_logits")
    if teacher_logits.shape[1] < 2:
        raise ValueError("teacher_logits must hold at least 2 classes, got 1. A gap needs a second class")
    logits, own_class = float64(teacher_logits), target[:, None]
    own = logits.gather(1, own_class).squeeze(1)
    best_other = logits.scatter(1, own_class, -torch.inf).amax(dim=1)
    return (own - best_other).mean().to(result_dtype(teacher_logits))


def suggest_dkd_beta(gap: float | Tensor) -> float:
    """Returns the β of DKD that suits a teacher's :func:`target_gap`: 2 below 7, 6 below 8.3, else 8.

    The surer the teacher, the larger β. The two limits lie between the six gaps that the paper publishes, all
    of CIFAR-100 at temperature 4 (5.36 and 6.73 → 2; 7.24 and 8.25 → 6; 8.40 and 8.53 → 8). Its authors call
    it guidance; ImageNet used .5 and 2.

    Args:
        gap: mean distance of the target's logit from the best other.

    Raises:
        ValueError: ``gap`` is NaN.

    Example:
        >>> from understudy.analysis import suggest_dkd_beta
        >>> suggest_dkd_beta(7.24)
        6.0

    Reference: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, the guidance for tuning β.
    """
    value = float(gap)
    if math.isnan(value):
        raise ValueError("gap must be a number, got nan. Look for NaN in the teacher's logits")
    if value < 7:
        return 2.0
    return 6.0 if value < 8.3 else 8.0
