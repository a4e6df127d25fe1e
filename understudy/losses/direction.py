"""Direction alone, or the plain distance: the losses KD++ compares its own with."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.balance import batch_mean
from understudy.losses.contract import check_class_means, check_same_shape, check_target, full_precision
from understudy.losses.numerics import unit
from understudy.widest import widen


def cosine_direction_loss(
    student_feature: Tensor, class_means: Tensor, target: Tensor, class_balanced: bool = False
) -> Tensor:
    """Returns one minus the cosine between each feature and its class mean, averaged over the batch.

    Args:
        student_feature: what learns; projected before if its width differs.
        class_means: the teacher's mean feature of every class; detached. A zero row, or a zero feature, gives
            1 with zero gradient.
        target: class numbers.
        class_balanced: whether each class present counts the same, instead of each sample.

    Returns:
        0-d tensor, 0 to 2; equal to :func:`~understudy.losses.dino.dino_loss` with ``teacher_norm_scale=0``.

    Raises:
        ValueError: shapes are not ``(B, D)`` and ``(C, D)``, an input is not floating, target is not int64 of
            shape ``(B,)`` or (on CPU, in eager mode) outside ``[0, C)``.

    Shape:
        student_feature: ``(B, D)``; class_means: ``(C, D)``; target: ``(B,)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import cosine_direction_loss
        >>> float(cosine_direction_loss(torch.tensor([[3.0, 0.0]]), torch.eye(2), torch.tensor([1])))
        1.0

    Reference: Improving Knowledge Distillation via Regularizing Feature Direction and Norm (KD++), Eq. 1. The
    equation averages within classes first (``class_balanced=True``).
    """
    _check(student_feature, class_means, target)
    return cosine_direction(student_feature, class_means, target, class_balanced)


@full_precision()
def cosine_direction(
    student_feature: Tensor, class_means: Tensor, target: Tensor, class_balanced: bool = False
) -> Tensor:
    """Returns :func:`cosine_direction_loss` of arguments that were checked before."""
    cosine = (unit(student_feature) * unit(class_means[target])).sum(dim=1)  # (B,)
    return batch_mean(1 - cosine, target, class_balanced)


def infonce_direction_loss(
    student_feature: Tensor, class_means: Tensor, target: Tensor, class_balanced: bool = False
) -> Tensor:
    """Returns the cross-entropy of the cosines to all class means (no temperature), averaged over the batch.

    Args:
        student_feature: what learns; projected before if its width differs.
        class_means: the teacher's mean feature of every class; detached. A zero row has cosine 0.
        target: class numbers.
        class_balanced: whether each class present counts the same, instead of each sample.

    Returns:
        0-d tensor in nats, above 0 (the cosines end at 1).

    Raises:
        ValueError: as :func:`cosine_direction_loss`.

    Shape:
        student_feature: ``(B, D)``; class_means: ``(C, D)``; target: ``(B,)``; output: ``()``.

    Reference: Improving Knowledge Distillation via Regularizing Feature Direction and Norm (KD++), Eq. 2. The
    equation averages within classes first (``class_balanced=True``).
    """
    _check(student_feature, class_means, target)
    return infonce_direction(student_feature, class_means, target, class_balanced)


@full_precision()
def infonce_direction(
    student_feature: Tensor, class_means: Tensor, target: Tensor, class_balanced: bool = False
) -> Tensor:
    """Returns :func:`infonce_direction_loss` of arguments that were checked before."""
    feature = unit(student_feature)
    cosines = (widen(feature) @ widen(unit(class_means)).T).to(feature.dtype)  # (B, C)
    return batch_mean(F.cross_entropy(cosines, target, reduction="none"), target, class_balanced)


def feature_l2_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    target: Tensor | None = None,
    class_balanced: bool = False,
) -> Tensor:
    """Returns the squared distance of the features, summed over their width, averaged over the batch.

    Args:
        student_feature: what learns; projected before if its width differs.
        teacher_feature: what is learned from; detached.
        target: class numbers; needed only if ``class_balanced``.
        class_balanced: whether each class present counts the same, instead of each sample.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: features are not ``(B, D)`` of one shape or not floating, target is not int64 of shape
            ``(B,)``, ``class_balanced`` without target.

    Shape:
        student_feature, teacher_feature: ``(B, D)``; target: ``(B,)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import feature_l2_loss
        >>> float(feature_l2_loss(torch.ones(4, 3), torch.zeros(4, 3)))
        3.0

    Reference: Improving Knowledge Distillation via Regularizing Feature Direction and Norm (KD++), Eq. 3. The
    equation averages within classes first (``class_balanced=True``).
    """
    check_same_shape(student_feature, teacher_feature, rank=2)
    if target is not None:
        check_target(target, student_feature.shape[0])
    return feature_l2(student_feature, teacher_feature, target, class_balanced)


@full_precision()
def feature_l2(
    student_feature: Tensor,
    teacher_feature: Tensor,
    target: Tensor | None = None,
    class_balanced: bool = False,
) -> Tensor:
    """Returns :func:`feature_l2_loss` of arguments that were checked before."""
    distance = (student_feature - teacher_feature).square().sum(dim=1)  # (B,)
    return batch_mean(distance, target, class_balanced)


def _check(student_feature: Tensor, class_means: Tensor, target: Tensor) -> None:
    check_class_means(student_feature, class_means)
    check_target(target, student_feature.shape[0], class_means.shape[0])
