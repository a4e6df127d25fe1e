"""What pulls and pushes a linear head and its features: gradients of CE and the BinaryKL losses, taken apart.

A *force* is minus a gradient. The *pull* of a loss is what it does through the logit of the true class, the
*push* what it does through all others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.analysis.contract import check_head
from understudy.analysis.precision import float64, result_dtype
from understudy.losses.contract import check_logits, check_same_shape, check_target, check_temperature


def head_gradient_terms(
    student_feature: Tensor,
    weight: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 2.0,
    bias: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""Returns the forces of three losses on the rows of a linear classifier, pull and push apart.

    With :math:`z = hW^\top + b` every force on row k is :math:`\sum_i g_{ik} h_i`, where :math:`g` is minus
    the derivative by the logits; the pull sums over the samples of class k, the push over the others.

    Args:
        student_feature: h, the input of the classifier.
        weight: W, its rows w_k.
        teacher_logits: what the BinaryKL losses learn from.
        target: class numbers.
        temperature: τ of the BinaryKL losses; CE has none.
        bias: b of the classifier.

    Returns:
        ``ce_pull``, ``ce_push``, ``binary_kl_pull``, ``binary_kl_push``, ``binary_kl_norm_pull``,
        ``binary_kl_norm_push``; row k acts on w_k. They carry the batch's 1/B, so minus the sum of a loss's
        two terms is its gradient by the weight. An empty batch exerts none.

    Raises:
        ValueError: shapes do not fit, a tensor is not floating, ``target`` is wrong, ``temperature <= 0``.

    Shape:
        student_feature: ``(B, D)``; weight: ``(C, D)``; teacher_logits: ``(B, C)``; target: ``(B,)``;
        bias: ``(C,)``; each output: ``(C, D)``.

    Reference: Yang et al., Dual-Head Knowledge Distillation, Propositions 1 and 3 (Eqs. 9, 11). The paper's
        terms lack 1/B. Its Eq. 12 writes the teacher's logit with the student's rows and no bias; the teacher
        has its own classifier, so its logits are taken. The sum of the two BinaryKL-Norm terms is the
        obstacle that training really meets; for Eq. 20 as printed see :func:`paper_obstacle`.
    """
    feature = float64(student_feature)
    forces = _logit_forces(student_feature, weight, teacher_logits, target, temperature, bias)
    dtype = result_dtype(student_feature, weight, teacher_logits)
    return {name: (force.T @ feature).to(dtype) for name, force in forces.items()}


def feature_gradient_terms(
    student_feature: Tensor,
    weight: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 2.0,
    bias: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""Returns the forces of three losses on the features, pull and push apart.

    Every force on sample i is :math:`\sum_k g_{ik} w_k`, where :math:`g` is minus the derivative by the
    logits; the pull is the term of the true class, the push sums over the others.

    Args:
        student_feature: h, the input of the classifier.
        weight: W, its rows w_k.
        teacher_logits: what the BinaryKL losses learn from.
        target: class numbers.
        temperature: τ of the BinaryKL losses; CE has none.
        bias: b of the classifier.

    Returns:
        The keys of :func:`head_gradient_terms`; row i acts on h_i. Minus the sum of a loss's two terms is its
        gradient by the features.

    Raises:
        ValueError: shapes do not fit, a tensor is not floating, ``target`` is wrong, ``temperature <= 0``.

    Shape:
        student_feature: ``(B, D)``; weight: ``(C, D)``; teacher_logits: ``(B, C)``; target: ``(B,)``;
        bias: ``(C,)``; each output: ``(B, D)``.

    Reference: Yang et al., Dual-Head Knowledge Distillation, Propositions 2 and 4 (Eqs. 13, 14, 23), with
        1/B. Misprints corrected: Eqs. 14 and 23 are derivatives by h, the push of Eq. 14 has the student's
        σ(z/τ) in place of its softmax, and the push of Eq. 22 has a minus sign.
    """
    rows = float64(weight)
    forces = _logit_forces(student_feature, weight, teacher_logits, target, temperature, bias)
    dtype = result_dtype(student_feature, weight, teacher_logits)
    return {name: (force @ rows).to(dtype) for name, force in forces.items()}


def paper_obstacle(
    student_feature: Tensor, teacher_feature: Tensor, weight: Tensor, temperature: float = 2.0
) -> Tensor:
    r"""Returns the BinaryKL-Norm force on the classifier as the paper prints it, to set beside the true one.

    .. math:: \frac{\tau}{B} \sum_i (\tfrac12 - \rho_{ik})(h^s_i - h^t_i), \quad
        \rho_{ik} = \sigma(\langle h^s_i - h^t_i, w_k \rangle / \tau)

    Args:
        student_feature: the student's h^s.
        teacher_feature: the teacher's h^t, of the same width.
        weight: the one classifier W that the formula gives to both networks.
        temperature: τ.

    Returns:
        One force a row of ``weight``, averaged over the batch; each points against its row (Lemma 1).

    Raises:
        ValueError: shapes do not fit, a tensor is not floating, ``temperature <= 0``.

    Shape:
        student_feature, teacher_feature: ``(B, D)``; weight, output: ``(C, D)``.

    Reference: Yang et al., Dual-Head Knowledge Distillation, Lemma 1 and Eq. 20, with 1/B. This is not the
        gradient of the loss that is trained: it would be, if the student's own rows made the teacher's logits
        too and the gradient went through both. With a fixed teacher the factor is h^s alone, and the force
        points *along* w_k where 0 < z_ik < t_ik. So the lemma is the formula's, not the method's.
    """
    check_same_shape(student_feature, teacher_feature, rank=2)
    check_head(student_feature, weight, name="student_feature")
    check_temperature(temperature)
    gap = float64(student_feature) - float64(teacher_feature)  # (B, D)
    logit_gap = gap @ float64(weight).T  # (B, C)
    force = _norm_force(logit_gap, temperature) / max(len(gap), 1)
    return (force.T @ gap).to(result_dtype(student_feature, teacher_feature, weight))


def _logit_forces(
    feature: Tensor,
    weight: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
    bias: Tensor | None,
) -> dict[str, Tensor]:
    """Returns minus the derivative of each loss by the logits ``(B, C)``, true class and others apart."""
    check_head(feature, weight, bias, "student_feature")
    logits = float64(feature) @ float64(weight).T
    check_logits(logits, teacher_logits)
    check_target(target, *logits.shape)
    check_temperature(temperature)
    if bias is not None:
        logits = logits + float64(bias)
    teacher = float64(teacher_logits)

    own = target[:, None] == torch.arange(logits.shape[1], device=logits.device)  # (B, C)
    others = logits.softmax(dim=1).masked_fill(own, 0)
    forces = {
        # 1 - p_y as the sum of the other probabilities: exact where the network is certain
        "ce": torch.where(own, others.sum(dim=1, keepdim=True), -others),
        "binary_kl": temperature * ((teacher / temperature).sigmoid() - (logits / temperature).sigmoid()),
        "binary_kl_norm": _norm_force(logits - teacher, temperature),
    }
    batch = max(len(target), 1)
    terms = {}
    for name, force in forces.items():
        terms[f"{name}_pull"] = (force / batch).masked_fill(~own, 0)
        terms[f"{name}_push"] = (force / batch).masked_fill(own, 0)
    return terms


def _norm_force(logit_gap: Tensor, temperature: float) -> Tensor:
    """Returns τ(½ - σ(d/τ)) in the form that keeps its digits near 0."""
    return -temperature / 2 * torch.tanh(logit_gap / (2 * temperature))
