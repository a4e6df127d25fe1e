"""Overhaul of feature distillation: partial L2 before the activation (Heo et al., 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from understudy.losses.contract import check_floating, check_same_shape, full_precision
from understudy.widest import widen


@full_precision()
def ofd_loss(student_feature: Tensor, teacher_feature: Tensor, margin: Tensor) -> Tensor:
    r"""Returns the squared distance to :math:`g = \max(t, m)` where it matters.

    It is summed over C, H, W and averaged over B. It matters where the teacher is active (t > 0) or the
    student
    lies above g: a student already below the margin of a silent teacher is left alone.

    Args:
        student_feature: the connector's output for one stage, before the activation.
        teacher_feature: the teacher's map before the activation, at the same size; detached.
        margin: m, one (negative) number a channel, from :func:`ofd_margin`; detached.

    Returns:
        0-d tensor, from 0 up. The stage's factor 2^{-(n-k)} is not in it.

    Raises:
        ValueError: shapes differ, ``margin`` is not ``(C,)``, something is not floating.

    Shape:
        student_feature, teacher_feature: ``(B, C, H, W)``; margin: ``(C,)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import ofd_loss
        >>> student, teacher = torch.tensor([-5.0, 1.0, 1.0]), torch.tensor([-2.0, -2.0, 3.0])
        >>> float(ofd_loss(student.view(1, 3, 1, 1), teacher.view(1, 3, 1, 1), torch.full((3,), -1.0)))
        8.0

    Reference: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019: margin ReLU and
    partial L2 distance.
    """
    check_same_shape(student_feature, teacher_feature, rank=4)
    if margin.shape != student_feature.shape[1:2]:
        raise ValueError(
            f"margin must have shape (C,) for features (B, C, H, W), got margin {tuple(margin.shape)} and "
            f"features {tuple(student_feature.shape)}. "
            "Compute it from the BatchNorm in front of the teacher's activation"
        )
    check_floating(margin=margin)
    goal = torch.maximum(teacher_feature, margin.view(1, -1, 1, 1))
    counts = (student_feature > goal) | (teacher_feature > 0)
    return ((student_feature - goal) * counts).square().sum() / max(student_feature.shape[0], 1)


@full_precision()
def ofd_margin(weight: Tensor, bias: Tensor) -> Tensor:
    r"""Returns what the teacher's silent responses are on average: :math:`E[x \mid x < 0]`, a channel.

    x is normal with mean ``bias`` and standard deviation ``|weight|``, as a BatchNorm leaves it:
    :math:`\mu - s\,\varphi(\mu/s) / \Phi(-\mu/s)`; -3s where x < 0 has a chance of .001 or less;
    ``min(bias, 0)`` where the weight is 0.

    Args:
        weight: scale of the BatchNorm in front of the activation.
        bias: its shift.

    Returns:
        ``(C,)`` margins, at most 0, without gradient; computed in float64, in the dtype of the arguments.

    Raises:
        ValueError: ``weight`` and ``bias`` are not floating of one shape ``(C,)``.

    Shape:
        weight, bias: ``(C,)``; output: ``(C,)``.

    Example:
        >>> import torch
        >>> from understudy.losses import ofd_margin
        >>> ofd_margin(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 9.0, -2.0]))
        tensor([-0.7979, -3.0000, -2.0000])

    Reference: Heo et al., ICCV 2019: the margin of the margin ReLU. The released code divides by zero where
    the weight is 0.
    """
    if weight.dim() != 1 or weight.shape != bias.shape:
        raise ValueError(
            f"weight and bias must both have shape (C,), got weight {tuple(weight.shape)} and bias "
            f"{tuple(bias.shape)}. Give those of one BatchNorm"
        )
    check_floating(weight=weight, bias=bias)
    mean, std = widen(bias.detach()), widen(weight.detach()).abs()
    z = mean / torch.where(std > 0, std, 1.0)
    log_chance = torch.special.log_ndtr(-z)  # log P(x < 0)
    # The ratio of density to chance from logarithms: both vanish together far to the right.
    expected = mean - std * torch.exp(-z.square() / 2 - math.log(2 * math.pi) / 2 - log_chance)
    margin = torch.where(log_chance > math.log(0.001), expected, -3 * std)
    return torch.where(std > 0, margin, mean.clamp(max=0)).to(weight.dtype)
