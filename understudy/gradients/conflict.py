"""How far two losses pull against each other: inner products and squared norms over lists of gradients."""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: the list kernels have no public name; torch.optim is written with the same ones.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def conflict(
    ce: Sequence[Tensor | None], kd: Sequence[Tensor | None], main: Sequence[Tensor | None] = ()
) -> tuple[Tensor, Tensor]:
    """Returns d = <a, b> and n = ‖a‖² + ‖w‖², summed over whole lists of gradients.

    Args:
        ce: a, the label loss's gradients of the backbone, one entry a parameter; ``None`` is zero.
        kd: b, the other losses' gradients of the same parameters, in the same order.
        main: w, further gradients of the label loss that count in n (mode ``released``: the main head).

    Returns:
        d and n, 0-d tensors on the gradients' device, at least float32. Nothing is read on the host.

    Raises:
        ValueError: ``ce`` and ``kd`` are not equally long.

    Example:
        >>> import torch
        >>> from understudy.gradients import conflict
        >>> conflict([torch.tensor([3.0, 4.0]), None], [torch.tensor([-1.0, 0.0]), torch.ones(2)])
        (tensor(-3.), tensor(25.))
    """
    return dot(ce, kd), squared_norm((*ce, *main), like=kd)


def dot(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> Tensor:
    """Returns the inner product of two lists of tensors in one order; ``None`` is zero.

    Raises:
        ValueError: the lists are not equally long.
    """
    check_paired(first, second)
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not pairs:
        return _zero((*first, *second))
    left, right = wide([a for a, _ in pairs]), wide([b for _, b in pairs])
    return _dot_by_tensor(left, right) if left[0].device.type == "cpu" else _dot_by_list(left, right)


def squared_norm(tensors: Sequence[Tensor | None], like: Sequence[Tensor | None] = ()) -> Tensor:
    """Returns the sum of all squares; ``None`` is zero, and where all are, ``like`` gives the device."""
    present = wide([t for t in tensors if t is not None])
    if not present:
        return _zero(like)
    # on a CPU the norm's float32 accumulation is off by 2e-4 at 10^7 entries
    on_cpu = present[0].device.type == "cpu"
    return _dot_by_tensor(present, present) if on_cpu else _squares_by_list(present)


def wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns the tensors in at least float32; those that are already are not copied."""
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def check_paired(ce: Sequence[Tensor | None], kd: Sequence[Tensor | None]) -> None:
    """Checks that both lists have one entry a parameter."""
    if len(ce) != len(kd):
        raise ValueError(
            f"both lists of gradients must have one entry a parameter, got {len(ce)} and {len(kd)}. "
            "Put None where a loss does not reach a parameter"
        )


def _dot_by_tensor(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """One pass a pair and no products in memory: on a CPU, ten times faster than the form for launches."""
    return torch.stack([torch.dot(a.flatten(), b.flatten()) for a, b in zip(left, right, strict=True)]).sum()


def _dot_by_list(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """A handful of kernels however many tensors there are.

    There is no list form of a sum, but one of the 1-norm: the sum of the positive products less that of the
    negative ones.
    """
    products = torch._foreach_mul(left, right)
    positive = torch._foreach_norm(torch._foreach_clamp_min(products, 0.0), 1)
    negative = torch._foreach_norm(torch._foreach_clamp_max(products, 0.0), 1)
    return torch.stack(positive).sum() - torch.stack(negative).sum()


def _squares_by_list(tensors: list[Tensor]) -> Tensor:
    """The sum of all squares in a handful of kernels."""
    return torch.stack(torch._foreach_norm(tensors)).square().sum()


def _zero(like: Sequence[Tensor | None]) -> Tensor:
    """Returns a 0-d zero where the first present tensor lives, at least float32."""
    first = next((t for t in like if t is not None), None)
    if first is None:
        return torch.zeros(())
    return first.new_zeros((), dtype=torch.promote_types(first.dtype, torch.float32))
