"""Correlation congruence, as its authors' code computes it: neighbours in the batch (Peng et al., 2019)."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.contract import check_same_shape, full_precision


@full_precision(learns=("teacher_embedding",))
def cc_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    r"""Returns the mean over neighbours i, i+1 of :math:`\sum_d \delta_{id} \delta_{i+1,d}`.

    δ is the absolute difference of student and teacher. The only loss that depends on the order of the batch.

    Args:
        student_embedding: the student's feature through its linear layer.
        teacher_embedding: the teacher's feature through its own; **not** detached, since that layer is
            trained too. Detach the feature below it.

    Returns:
        0-d tensor, from 0 up.

    Raises:
        ValueError: shapes differ, embeddings are not floating ``(B, D)``, or B < 2.

    Shape:
        student_embedding, teacher_embedding: ``(B, D)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import cc_loss
        >>> float(cc_loss(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2)))
        11.0

    Reference: Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019. The paper compares
    kernel matrices; this is the loss of the released code, for which the weight was published.
    """
    check_same_shape(student_embedding, teacher_embedding, rank=2, what="embedding")
    if student_embedding.shape[0] < 2:
        raise ValueError(
            f"cc must have at least 2 samples, got {student_embedding.shape[0]}. "
            "Choose a batch size that leaves no single image, or drop the last batch"
        )
    delta = (student_embedding - teacher_embedding).abs()
    return (delta[:-1] * delta[1:]).sum(dim=1).mean()
