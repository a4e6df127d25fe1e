"""Contrastive representation distillation: tell the own image from 16384 others (Tian et al., 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.losses.contract import check_same_shape, check_temperature, full_precision, reduce
from understudy.losses.numerics import unit

EPS = 1e-7
"""Added to every denominator, as in the authors' code."""


@full_precision(learns=("teacher_embedding",))
def crd_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    student_memory: Tensor,
    teacher_memory: Tensor,
    index: Tensor,
    negative_index: Tensor,
    student_normalizer: float | Tensor,
    teacher_normalizer: float | Tensor,
    temperature: float = 0.07,
) -> Tensor:
    r"""Returns the noise-contrastive loss of both embeddings, each against the other network's memory.

    With J = [index, negatives], :math:`x = e^{\langle V[J], v \rangle / T} / Z`, c = K/N and ε = 1e-7, the
    sum over both sides of

    .. math:: -\frac1B \Big[ \sum_i \log\frac{x_{i0}}{x_{i0} + c + \epsilon}
              + \sum_{i,\,k \ge 1} \log\frac{c}{x_{ik} + c + \epsilon} \Big]

    Args:
        student_embedding: unit vectors of the student's embedding layer.
        teacher_embedding: unit vectors of the teacher's; **not** detached, since that layer is trained too.
            Detach the feature below it.
        student_memory: one row an image of the training set, never differentiated.
        teacher_memory: the same for the teacher.
        index: which training image each sample is.
        negative_index: K images of other classes a sample; repetitions allowed.
        student_normalizer: Z of the student's scores, frozen after the first batch (:func:`crd_normalizer`).
        teacher_normalizer: Z of the teacher's scores.
        temperature: T.

    Returns:
        0-d tensor, from 0 up: the sum of the two sides, summed over K, averaged over the batch.

    Raises:
        ValueError: embeddings or memories do not fit, indices are not int64 of shape ``(B,)`` and ``(B, K)``
            with K >= 1, ``temperature <= 0``.

    Shape:
        student_embedding, teacher_embedding: ``(B, E)``; student_memory, teacher_memory: ``(N, E)``;
        index: ``(B,)``; negative_index: ``(B, K)``; student_normalizer, teacher_normalizer: numbers or
            ``()``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import crd_loss
        >>> v, bank = torch.eye(2), torch.eye(4, 2)
        >>> index, negatives = torch.tensor([0, 1]), torch.tensor([[2, 3], [2, 3]])
        >>> round(float(crd_loss(v, v, bank, bank, index, negatives, 4.0, 4.0, temperature=1.0)), 3)
        2.725

    Reference: Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020, and the
    authors' code (noise-contrastive form, N times the mean as Z, momentum memory). Computed from log x, which
    does not overflow; Z itself does in float32 below a temperature of about 0.01. The scores are an ordinary matrix
    product and follow the process-wide TF32 setting.
    """
    _check(student_embedding, teacher_embedding, student_memory, teacher_memory, index, negative_index)
    check_temperature(temperature)
    rows = torch.cat([index.unsqueeze(1), negative_index], dim=1)  # (B, 1+K)
    student = _one_side(student_embedding, teacher_memory, rows, student_normalizer, temperature)
    return student + _one_side(teacher_embedding, student_memory, rows, teacher_normalizer, temperature)


@full_precision()
def crd_normalizer(
    embedding: Tensor, memory: Tensor, index: Tensor, negative_index: Tensor, temperature: float = 0.07
) -> Tensor:
    """Returns Z = N · mean(exp(score / T)) of one batch, which :func:`crd_loss` divides by ever after.

    Args:
        embedding: unit vectors ``(B, E)`` of one network.
        memory: the **other** network's memory ``(N, E)``.
        index: ``(B,)`` which training image each sample is.
        negative_index: ``(B, K)`` its negatives.
        temperature: T.

    Returns:
        0-d tensor without gradient, above 0.

    Raises:
        ValueError: as :func:`crd_loss`, or the batch is empty.

    Reference: Tian, Krishnan and Isola, ICLR 2020, authors' code: the estimate of the first batch is kept.
    """
    _check(embedding, embedding, memory, memory, index, negative_index)
    check_temperature(temperature)
    if embedding.shape[0] < 1:
        raise ValueError(
            "embedding must hold at least 1 sample, got 0. Take Z from a batch that is not empty"
        )
    rows = torch.cat([index.unsqueeze(1), negative_index], dim=1)
    scores = _scores(embedding, memory, rows).detach() / temperature
    return torch.exp(scores.flatten().logsumexp(dim=0) + math.log(memory.shape[0] / scores.numel()))


@full_precision()
def crd_update(memory: Tensor, index: Tensor, embedding: Tensor, momentum: float = 0.5) -> Tensor:
    """Returns the new rows of a memory: ``normalise(momentum · memory[index] + (1 - momentum) · embedding)``.

    The memory itself is left alone; write ``memory[index] = crd_update(memory, index, embedding)`` after the
    loss. Every index should occur once: of several new values of one row, only one can be kept.

    Args:
        memory: one unit row an image.
        index: the rows to renew.
        embedding: what the network says now.
        momentum: share of the old row, in [0, 1].

    Returns:
        ``(B, E)`` unit rows without gradient.

    Raises:
        ValueError: shapes do not fit, ``momentum`` outside [0, 1].

    Shape:
        memory: ``(N, E)``; index: ``(B,)``; embedding: ``(B, E)``; output: ``(B, E)``.

    Example:
        >>> import torch
        >>> from understudy.losses import crd_update
        >>> crd_update(torch.eye(2), torch.tensor([0]), torch.tensor([[0.0, 1.0]]))
        tensor([[0.7071, 0.7071]])

    Reference: Tian, Krishnan and Isola, ICLR 2020, authors' code.
    """
    _check_memory(embedding, memory)
    _check_index(index, (embedding.shape[0],), "index")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie in [0, 1], got {momentum}. The published value is 0.5")
    return unit(momentum * memory[index] + (1 - momentum) * embedding).detach()


def _one_side(
    embedding: Tensor, memory: Tensor, rows: Tensor, normalizer: float | Tensor, temperature: float
) -> Tensor:
    """Returns the loss of one embedding ``(B, E)`` against rows ``(B, 1+K)`` of the other's memory."""
    log_z = torch.log(normalizer.detach()) if isinstance(normalizer, Tensor) else math.log(normalizer)
    num_negatives = rows.shape[1] - 1
    c = num_negatives / memory.shape[0]
    scores = _scores(embedding, memory.detach(), rows) / temperature
    margin = scores - log_z - math.log(c + EPS)  # log(x / (c + eps))
    # log(x / (x + c + eps)) is logsigmoid(margin); log(c / (x + c + eps)) the rest below.
    own, others = F.logsigmoid(margin[:, 0]), F.logsigmoid(-margin[:, 1:]).sum(dim=1)
    return reduce(num_negatives * math.log1p(EPS / c) - own - others, "mean")


def _scores(embedding: Tensor, memory: Tensor, rows: Tensor) -> Tensor:
    """Returns ``(B, 1+K)`` inner products of every embedding with its rows of the memory."""
    num, width = memory.shape
    if num <= rows.shape[1] * width:  # all N scores take less memory than 1+K gathered rows
        return (embedding @ memory.T).gather(1, rows)
    return torch.einsum("bje,be->bj", memory[rows], embedding)


def _check(
    student: Tensor,
    teacher: Tensor,
    student_memory: Tensor,
    teacher_memory: Tensor,
    index: Tensor,
    negatives: Tensor,
) -> None:
    check_same_shape(student, teacher, rank=2, what="embedding")
    check_same_shape(student_memory, teacher_memory, rank=2, what="memory")
    _check_memory(student, student_memory)
    _check_index(index, (student.shape[0],), "index")
    if negatives.dim() != 2 or negatives.shape[1] < 1:
        raise ValueError(
            f"negative_index must have shape (B, K) with K of 1 or more, got {tuple(negatives.shape)}. "
            "Sample at least one image of another class"
        )
    _check_index(negatives, (student.shape[0], negatives.shape[1]), "negative_index")


def _check_memory(embedding: Tensor, memory: Tensor) -> None:
    if embedding.dim() != 2 or memory.dim() != 2 or embedding.shape[1] != memory.shape[1]:
        raise ValueError(
            f"embedding must be (B, E) and memory (N, E), got embedding {tuple(embedding.shape)} and memory "
            f"{tuple(memory.shape)}. Build the memory as wide as the embedding"
        )


def _check_index(index: Tensor, shape: tuple[int, ...], name: str) -> None:
    if index.dtype != torch.int64 or index.shape != shape:
        raise ValueError(
            f"{name} must be int64 of shape {shape}, got {index.dtype} of shape {tuple(index.shape)}. "
            "Give positions in the training set"
        )
