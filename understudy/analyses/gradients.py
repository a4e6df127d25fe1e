"""Pull and push of three losses on head and features (Propositions 1 to 4 of DHKD), on a trained student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Head, Pair
from understudy.analysis import feature_gradient_terms, head_gradient_terms, paper_obstacle
from understudy.losses import binary_kl_loss, binary_kl_norm_loss
from understudy.report.plots import Bars, Curve, Curves, Plot

LOSSES = {"ce": "CE", "binary_kl": "BinaryKL", "binary_kl_norm": "BinaryKL-Norm"}


def gradients(pair: Pair) -> Finding:
    """Returns norms and signs of all terms on the student's head, and how far their sums are from autograd."""
    temperature = _temperature(pair)
    rows: list[list[Value]] = []
    numbers: dict[str, float] = {}
    by_epoch: list[tuple[int, dict[str, float]]] = []
    for epoch in pair.over_training():
        seen = pair.see("train")
        assert seen.teacher is not None  # it is among the needs
        head = seen.heads["student"]
        numbers = measure(head, seen.teacher, seen.target, temperature)
        by_epoch.append((epoch, numbers))
        rows += [[epoch, name, value] for name, value in numbers.items()]
        theirs = seen.heads.get("teacher")
        if theirs is not None and theirs.feature.shape == head.feature.shape:
            forces = paper_obstacle(head.feature, theirs.feature, head.weight, temperature)
            numbers["head/paper_obstacle_opposed"] = _opposed(forces, head.weight)
    notes = (
        f"On {len(pair.see('train').target)} un-augmented training images as one batch, τ = {temperature:g}. A force "
        "is minus a gradient; the pull acts through the true class's logit, the push through all others.",
        "opposed: share of the classifier's rows w_k on which the force points against w_k. That the "
        "BinaryKL-Norm obstacle always does (Lemma 1) holds for the paper's Eq. 20 (paper_obstacle), not for the loss "
        "that is trained.",
        "residual: ‖sum of the terms − autograd‖ over ‖autograd‖, in float64.",
    )
    columns = ("epoch", "number", "value")
    return Finding(numbers, {"terms": Sheet(columns, rows)}, _plots(numbers, by_epoch), notes)


def measure(head: Head, teacher_logits: Tensor, target: Tensor, temperature: float) -> dict[str, float]:
    """Returns Frobenius norms, cosines and signs of the terms, and their residuals against autograd.

    Keys: ``SIDE/LOSS_pull``, ``SIDE/LOSS_push`` norms, ``SIDE/LOSS_residual``, and ``SIDE/ce_LOSS_cosine`` of the whole
    forces, for ``head`` and ``feature``; ``head/LOSS_opposed``.
    """
    feature, weight, teacher = (x.double() for x in (head.feature, head.weight, teacher_logits))
    bias = None if head.bias is None else head.bias.double()
    autograd = exact_gradients(feature, weight, bias, teacher, target, temperature)
    numbers = {}
    sides: Mapping[str, Callable[..., dict[str, Tensor]]] = {
        "head": head_gradient_terms,
        "feature": feature_gradient_terms,
    }
    for side, decompose in sides.items():
        terms = decompose(feature, weight, teacher, target, temperature, bias)
        whole = {loss: terms[f"{loss}_pull"] + terms[f"{loss}_push"] for loss in LOSSES}
        numbers |= {f"{side}/{name}": float(term.norm()) for name, term in terms.items()}
        for loss, force in whole.items():
            gradient = autograd[loss][side]
            numbers[f"{side}/{loss}_residual"] = float((force + gradient).norm() / gradient.norm())
            if loss != "ce":
                numbers[f"{side}/ce_{loss}_cosine"] = _cosine(whole["ce"], force)
            if side == "head":
                numbers[f"head/{loss}_opposed"] = _opposed(force, weight)
    return numbers


def exact_gradients(
    feature: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
) -> dict[str, dict[str, Tensor]]:
    """Returns autograd's gradients of the library's own losses by the classifier's weight and by the features."""
    losses: Mapping[str, Callable[[Tensor], Tensor]] = {
        "ce": lambda z: F.cross_entropy(z, target),
        "binary_kl": partial(_with_teacher, binary_kl_loss, teacher_logits, temperature),
        "binary_kl_norm": partial(_with_teacher, binary_kl_norm_loss, teacher_logits, temperature),
    }
    result = {}
    for name, loss in losses.items():
        h, w = feature.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.enable_grad():
            by_head, by_feature = torch.autograd.grad(loss(F.linear(h, w, bias)), [w, h])
        result[name] = {"head": by_head, "feature": by_feature}
    return result


def _with_teacher(
    loss: Callable[[Tensor, Tensor, float], Tensor], teacher: Tensor, temperature: float, z: Tensor
) -> Tensor:
    return loss(z, teacher, temperature)


def _temperature(pair: Pair) -> float:
    """Returns τ of the run's sigmoid loss, 2 where it has none."""
    for term in pair.distiller.terms:
        if term.name in ("dhkd", "binary_kl", "binary_kl_norm"):
            return pair.number(term, "temperature") or 2.0
    return 2.0


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def _opposed(force: Tensor, weight: Tensor) -> float:
    """Returns the share of rows whose force points against them."""
    return float(((force.double() * weight.double()).sum(dim=1) < 0).double().mean())


def _plots(numbers: dict[str, float], by_epoch: list[tuple[int, dict[str, float]]]) -> tuple[Plot, ...]:
    names = tuple(LOSSES.values())
    plots: list[Plot] = [
        Bars(
            side,
            f"Norm of pull and push on the {title}",
            "norm",
            names,
            tuple((kind, [numbers[f"{side}/{loss}_{kind}"] for loss in LOSSES]) for kind in ("pull", "push")),
        )
        for side, title in (("head", "head"), ("feature", "features"))
    ]
    if len(by_epoch) > 1:
        epochs = [epoch for epoch, _ in by_epoch]
        curves = tuple(
            Curve(name, epochs, [n[f"head/ce_{loss}_cosine"] for _, n in by_epoch])
            for loss, name in LOSSES.items()
            if loss != "ce"
        )
        plots.append(
            Curves(
                "cosine", "Cosine of the CE force with the teacher's, on the head", "epoch", "cosine", curves
            )
        )
    return tuple(plots)
