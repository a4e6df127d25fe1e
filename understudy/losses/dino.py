"""The dino-loss: norm and direction of the feature at once (KD++)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.losses.balance import batch_mean
from understudy.losses.contract import check_class_means, check_same_shape, check_target, full_precision
from understudy.losses.numerics import unit

_TINY = 1e-12  # norm below which a vector has no direction


def dino_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    class_means: Tensor,
    target: Tensor,
    teacher_norm_scale: float = 1.0,
    class_balanced: bool = False,
) -> Tensor:
    r"""Returns one minus the student's component along its class mean, over the larger of both norms.

    .. math:: 1 - \frac{\langle f_s, e_y \rangle}{\max(\|f_s\|, m \|f_t\|)}, \quad e_k = c_k / \|c_k\|

    While the student's feature is shorter than the teacher's the loss pulls it along the class mean; from
    then on only its direction matters.

    Args:
        student_feature: what learns; projected before if its width differs.
        teacher_feature: only its norm is used; detached.
        class_means: the teacher's mean feature of every class (or its classifier's weight); detached. A
            class without images has a zero row: its samples give 1 with zero gradient.
        target: class numbers.
        teacher_norm_scale: m, factor on the teacher's norm; 1 + m in the paper's ablation.
        class_balanced: whether each class present counts the same, instead of each sample.

    Returns:
        0-d tensor, 0 (along the class mean, at least as long as the teacher's) to 2.

    Raises:
        ValueError: features are not ``(B, D)`` of one shape, class means are not ``(C, D)``, any of them is
            not floating, target is not int64 of shape ``(B,)`` or (on CPU, in eager mode) outside ``[0, C)``.

    Shape:
        student_feature, teacher_feature: ``(B, D)``; class_means: ``(C, D)``; target: ``(B,)``; output:
        ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import dino_loss
        >>> means, target = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1])
        >>> short, long = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 4.0]])
        >>> float(dino_loss(short, long, means, target)), float(dino_loss(long, short, means, target))
        (0.5, 0.0)

    Reference: Improving Knowledge Distillation via Regularizing Feature Direction and Norm (KD++), Eq. 7;
    Eq. 9 with ``teacher_norm_scale``. Deviations: the constant 1 is kept, so the loss has its minimum at 0;
    ``class_balanced`` is Eq. 7 as written, its default off is the released code's. Where the student's
    norm is at least the scaled teacher's it is differentiated, at a tie too.
    """
    check_same_shape(student_feature, teacher_feature, rank=2)
    check_class_means(student_feature, class_means)
    check_target(target, student_feature.shape[0], class_means.shape[0])
    return dino(student_feature, teacher_feature, class_means, target, teacher_norm_scale, class_balanced)


@full_precision()
def dino(
    student_feature: Tensor,
    teacher_feature: Tensor,
    class_means: Tensor,
    target: Tensor,
    teacher_norm_scale: float = 1.0,
    class_balanced: bool = False,
) -> Tensor:
    """Returns :func:`dino_loss` of arguments that were checked before."""
    direction = unit(class_means[target])  # (B, D)
    student_norm = torch.linalg.vector_norm(student_feature, dim=1)
    teacher_norm = teacher_norm_scale * torch.linalg.vector_norm(teacher_feature, dim=1)
    norm = torch.where(student_norm >= teacher_norm, student_norm, teacher_norm)  # maximum halves it at ties
    along = (student_feature * direction).sum(dim=1) / norm.clamp_min(_TINY)
    along = torch.where(norm <= _TINY, along.detach(), along)  # two zero vectors: no direction, no gradient
    return batch_mean(1 - along, target, class_balanced)
