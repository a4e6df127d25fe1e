"""Fidelity: how closely a student answers like its teacher, right or wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.losses.contract import check_logits
from understudy.losses.kd import kd_loss
from understudy.metrics.contract import check_not_empty


def top1_agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Returns the share of samples on which both networks name the same class.

    Args:
        student_logits: scores of one network.
        teacher_logits: scores of the other; the measure is symmetric.

    Returns:
        0-d float32 tensor from 0 to 1 (not percent).

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, there is no sample.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.metrics import top1_agreement
        >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> float(top1_agreement(student, teacher_logits=torch.tensor([[3.0, 2.0], [3.0, 2.0]])))
        0.5

    Reference: Stanton et al., Does Knowledge Distillation Really Work?, NeurIPS 2021.
    """
    check_logits(student_logits, teacher_logits)
    check_not_empty(student_logits, "student_logits")
    same = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)  # lower class in a tie
    return same.to(torch.float32).mean()


@torch.no_grad()
def mean_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Returns the mean KL divergence of the student's softmax from the teacher's, at temperature 1.

    It is KL(teacher ‖ student), in nats: 0 where both agree in every probability.

    Args:
        student_logits: scores of the network that is judged.
        teacher_logits: scores of the one it should answer like.

    Returns:
        0-d tensor from 0 up, summed over classes, averaged over the samples.

    Raises:
        ValueError: shapes differ or are not ``(B, C)``, logits are not floating, there is no sample.

    Shape:
        student_logits, teacher_logits: ``(B, C)``; output: ``()``.

    Reference: Stanton et al., Does Knowledge Distillation Really Work?, NeurIPS 2021.
    """
    check_logits(student_logits, teacher_logits)
    check_not_empty(student_logits, "student_logits")
    return kd_loss(student_logits, teacher_logits, temperature=1.0)
