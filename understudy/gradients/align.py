"""Gradient alignment: where the teacher pulls against the labels, the labels pull as much harder (DHKD).

Two objectives, weights included: L_1 is the label loss, L_2 everything else. On the *backbone* both have
gradients, a = ∂L_1 and b = ∂L_2; on *main* parameters (the student's head) only L_1 has, w; on *aux* ones
(auxiliary head, projectors) only L_2, v. Every mode computes d and n, and from them λ = max(0, -d)/n:

- ``none``: a + b, w, v; λ = 0. (d = <a, b> and n = ‖a‖² are reported.)
- ``released``: d = <a, b>, n = ‖a‖² + ‖w‖²: (1+λ)a + b, (1+λ)w, v
- ``backbone``: d = <a, b>, n = ‖a‖²: (1+λ)a + b, w, v
- ``paper``: for each class k, d = <w_k, v_k>, n = ‖w_k‖²: a + b, w, v_k + λ_k w_k
- ``feature``: ``backbone`` on the gradients of the batch of features, before the backward of the backbone

λ is not linear in the gradients: under data parallelism reduce both over the ranks first (for ``feature``,
sum d and n).
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: the list kernels have no public name; torch.optim is written with the same ones.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from understudy.gradients.conflict import check_paired, conflict, squared_norm, wide

Role: TypeAlias = Literal["backbone", "main", "aux"]
"""Which losses reach a parameter: both, the label loss only, the others only."""
Gradients: TypeAlias = Mapping[str, Tensor | None]
"""Parameter name -> gradient; absent or ``None`` is zero."""

_SCALED: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "released": ("backbone", "main"),
    "backbone": ("backbone",),
    "paper": (),
}
"""Mode -> roles whose label gradient is multiplied by 1 + λ."""
_ROLES = ("backbone", "main", "aux")


def align_gradients(
    ce_gradients: Gradients,
    kd_gradients: Gradients,
    roles: Mapping[str, Role],
    mode: Literal["none", "released", "backbone", "paper"] = "released",
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the merged gradients of both losses, and the numbers that led to them.

    Args:
        ce_gradients: of the weighted label loss.
        kd_gradients: of all other weighted losses together.
        roles: parameter name to role, for every name in either dictionary.
        mode: which projection (listed at the top of this module).

    Returns:
        merged: name to gradient, in the gradients' dtype. A parameter that neither loss reaches is absent; a
            gradient that needs no change is the given tensor itself. Non-finite ones are passed on.
        info: ``lambda``, ``dot`` (d) and ``norm_sq`` (n), 0-d (mode ``paper``: one entry a class, unless one
            loss reaches no head), and ``cosine`` of a and b over the backbone, 0 if either is zero. They stay
            on the device.

    Raises:
        ValueError: ``mode`` or a role is unknown, a name has no role, or mode ``paper`` does not find exactly
            one matrix of role ``main`` and one of role ``aux``, equal in shape.

    Example:
        >>> import torch
        >>> from understudy.gradients import align_gradients
        >>> ce, kd = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([-3.0, 2.0])}
        >>> merged, info = align_gradients(ce, kd, {"w": "backbone"}, mode="backbone")
        >>> merged["w"], info["lambda"]  # the teacher's part is now orthogonal to (1, 0)
        (tensor([1., 2.]), tensor(3.))

    Reference: Dual-Head Knowledge Distillation (DHKD), Eq. 6. ``released`` is the published code's projection
    of the whole flattened student: it equals the gradient of (1+λ)L_1 + L_2, and is computed as that, without
    flattening, masks or copies. As its n contains the main head it projects less than is needed, and it
    scales that head's gradient; ``backbone`` is the orthogonal projection. ``paper`` reads Eq. 6 as row k of
    the auxiliary head's weight against row k of the main head's; biases stay.
    """
    _check(ce_gradients, kd_gradients, roles, mode)
    names = {role: [name for name in roles if roles[name] == role] for role in _ROLES}
    ce = {role: [ce_gradients.get(name) for name in names[role]] for role in _ROLES}
    kd = {role: [kd_gradients.get(name) for name in names[role]] for role in _ROLES}

    dot, norm_sq = conflict(ce["backbone"], kd["backbone"])
    for gradient in (*ce_gradients.values(), *kd_gradients.values()):
        if gradient is not None:  # an empty backbone does not tell the device
            dot, norm_sq = dot.to(gradient.device), norm_sq.to(gradient.device)
            break
    cosine = _cosine(dot, norm_sq, squared_norm(kd["backbone"], like=(norm_sq,)))
    if mode == "released":
        norm_sq = norm_sq + squared_norm(ce["main"], like=(norm_sq,))
    strength = coefficient(dot, norm_sq) if _SCALED[mode] else torch.zeros_like(dot)

    merged: dict[str, Tensor] = {}
    for role in _ROLES:
        together = merge(ce[role], kd[role], strength if role in _SCALED[mode] else None)
        merged |= {name: g for name, g in zip(names[role], together, strict=True) if g is not None}
    if mode == "paper":
        main, aux = _matrix("main", names["main"], ce_gradients), _matrix("aux", names["aux"], kd_gradients)
        if main is not None and aux is not None:  # else one of the losses is off for now: nothing to align
            dot, norm_sq = _row_conflict(main[1], aux[1])
            strength = coefficient(dot, norm_sq)
            merged[aux[0]] = (merged[aux[0]] + strength[:, None] * main[1]).to(aux[1].dtype)
    return merged, {"lambda": strength, "dot": dot, "norm_sq": norm_sq, "cosine": cosine}


def align_features(
    ce_gradient: Tensor, kd_gradient: Tensor, total: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the merged gradient with respect to a batch of features (mode ``feature``), and its numbers.

    One backward of the backbone from the merged gradient then replaces two. Its λ is not an estimate of
    ``backbone``'s: nothing is promised about the angle between the parameters' gradients.

    Args:
        ce_gradient: a_h, of the weighted label loss with respect to the features.
        kd_gradient: b_h, of all other weighted losses together.
        total: where the batch is divided over processes, sums a vector of numbers over them: d, n and ‖b_h‖².

    Returns:
        merged: (1+λ)a_h + b_h, with one λ for the batch, in the gradients' dtype.
        info: ``lambda``, ``dot``, ``norm_sq`` and ``cosine``, 0-d, on the device.

    Raises:
        ValueError: the shapes differ.

    Shape:
        ce_gradient, kd_gradient: any one shape, the batch first; merged: the same.

    Example:
        >>> import torch
        >>> from understudy.gradients import align_features
        >>> merged, info = align_features(torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 1.0]]))
        >>> merged, info["lambda"]
        (tensor([[2., 1.]]), tensor(0.5000))
    """
    if ce_gradient.shape != kd_gradient.shape:
        raise ValueError(
            f"both gradients must have the shape of the features, got {tuple(ce_gradient.shape)} and "
            f"{tuple(kd_gradient.shape)}. Differentiate both losses by the same tensor"
        )
    dot, norm_sq = conflict([ce_gradient], [kd_gradient])
    kd_norm_sq = squared_norm([kd_gradient])
    if total is not None:
        dot, norm_sq, kd_norm_sq = total(torch.stack([dot, norm_sq, kd_norm_sq])).unbind()
    strength = coefficient(dot, norm_sq)
    cosine = _cosine(dot, norm_sq, kd_norm_sq)
    (merged,) = merge([ce_gradient], [kd_gradient], strength)
    assert merged is not None  # both sides were given
    return merged, {"lambda": strength, "dot": dot, "norm_sq": norm_sq, "cosine": cosine}


def coefficient(dot: Tensor, norm_sq: Tensor) -> Tensor:
    """Returns λ = max(0, -d)/n, exactly 0 where d >= 0 or n = 0; NaN is passed on.

    Shape:
        dot, norm_sq: one shape; output: the same.
    """
    return torch.where(norm_sq == 0, 0.0, (-dot).clamp_min(0) / norm_sq)


def merge(
    ce: Sequence[Tensor | None], kd: Sequence[Tensor | None], strength: Tensor | None = None
) -> list[Tensor | None]:
    """Returns (1+λ)a + b for lists of gradients in one order, a + b without ``strength``.

    Args:
        ce: a, the label loss's gradients, one entry a parameter; ``None`` is zero.
        kd: b, the other losses'.
        strength: λ, a 0-d tensor on the gradients' device.

    Returns:
        One entry a parameter, in the gradients' dtype; ``None`` where both are. An entry that needs no change
        is the given tensor itself.

    Raises:
        ValueError: the lists are not equally long.
    """
    check_paired(ce, kd)
    label = {i: a for i, a in enumerate(ce) if a is not None}
    others = {i: b for i, b in enumerate(kd) if b is not None}
    if strength is not None and label:
        scaled = torch._foreach_mul(wide([*label.values()]), 1 + strength)
        label = dict(zip(label, scaled, strict=True))
    merged = others | label
    both = [i for i in label if i in others]
    if both:
        sums = torch._foreach_add([label[i] for i in both], [others[i] for i in both])
        merged |= dict(zip(both, sums, strict=True))
    result: list[Tensor | None] = []
    for i, given in enumerate(b if a is None else a for a, b in zip(ce, kd, strict=True)):
        result.append(None if given is None else merged[i].to(given.dtype))
    return result


def _cosine(dot: Tensor, first_squared: Tensor, second_squared: Tensor) -> Tensor:
    """Returns the cosine from an inner product and both squared norms; 0 if one of them is 0."""
    norms = first_squared.sqrt() * second_squared.sqrt()  # the product of squares would leave float32's range
    return torch.where(norms == 0, 0.0, dot / norms)


def _matrix(role: Role, names: Sequence[str], gradients: Gradients) -> tuple[str, Tensor] | None:
    """Returns name and gradient of the only matrix of a role; ``None`` if no parameter of it has a gradient.

    Raises:
        ValueError: there is no parameter of that role, or not exactly one matrix among those with a gradient.
    """
    present = [(name, g) for name in names if (g := gradients.get(name)) is not None]
    if names and not present:
        return None
    matrices = [(name, g) for name, g in present if g.dim() == 2]
    if len(matrices) != 1:
        raise ValueError(
            f"mode 'paper' must find exactly one matrix of role {role!r}, got "
            f"{', '.join(name for name, _ in matrices) or 'none'}. Use a linear auxiliary head and no other "
            "trained extras, or mode 'backbone'"
        )
    return matrices[0]


def _row_conflict(main: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
    """Returns d and n of each class, ``(C,)``, from both heads' weight gradients ``(C, D)``.

    Raises:
        ValueError: the matrices differ in shape.
    """
    if main.shape != aux.shape:
        raise ValueError(
            "mode 'paper' must have main and aux matrices of one shape, got main "
            f"{tuple(main.shape)} and aux {tuple(aux.shape)}. Use a linear auxiliary head on the same feature"
        )
    w, v = wide([main, aux])
    return (w * v).sum(dim=1), w.square().sum(dim=1)


def _check(ce: Gradients, kd: Gradients, roles: Mapping[str, Role], mode: str) -> None:
    if mode not in _SCALED:
        hint = "For 'feature' call align_features" if mode == "feature" else "Choose one of them"
        raise ValueError(f"mode must be one of {', '.join(_SCALED)}, got {mode!r}. {hint}")
    for name, role in roles.items():
        if role not in _ROLES:
            raise ValueError(
                f"roles must be {', '.join(_ROLES)}, got {role!r} for {name}. Choose one of them"
            )
    for name in (*ce, *kd):
        if name not in roles:
            raise ValueError(
                f"every gradient must have a role, got none for {name}. "
                f"Add it to roles as one of {', '.join(_ROLES)}"
            )
