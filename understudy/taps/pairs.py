"""Which stage of the student belongs to which of the teacher."""

from __future__ import annotations

import math

from understudy.interface import Network


def pair_stages(student: Network, teacher: Network) -> tuple[tuple[int, int], ...]:
    """Returns pairs ``(student k, teacher k)``, shallow to deep, one for every stage of whoever has fewer.

    Equally many stages are paired one to one. Otherwise the deepest two are a pair, and from there upwards
    each stage of the shorter network takes, among those still above the last one taken, the stage whose
    resolution relative to its own network's deepest is nearest (as a ratio; the deeper of two equally near).
    Tokens have no resolution: if either network shows them, the shorter's stages are spread evenly over the
    longer's.

    Args:
        student: as :func:`understudy.taps.describe` returns it.
        teacher: likewise.

    Returns:
        strictly rising numbers on both sides; empty if a network has no stages.

    Example:
        >>> from torch import nn
        >>> from understudy.interface import Network
        >>> sides = {"a": (28, 14, 7), "b": (56, 28, 14, 7)}
        >>> a, b = (
        ...     Network(nn.Identity(), None, {}, {f"stage_{k}": (8, h, h) for k, h in enumerate(s, 1)})
        ...     for s in sides.values()
        ... )
        >>> pair_stages(a, b)
        ((1, 2), (2, 3), (3, 4))
    """
    few, many = _sides(student), _sides(teacher)
    if len(few) > len(many):
        return tuple((k, j) for j, k in pair_stages(teacher, student))
    if not few:
        return ()
    if len(few) == len(many):
        taken = list(range(1, len(many) + 1))
    elif None in few or None in many:
        taken = [math.ceil(k * len(many) / len(few)) for k in range(1, len(few) + 1)]
    else:
        taken = _nearest([s or 0.0 for s in few], [s or 0.0 for s in many])
    return tuple(enumerate(taken, start=1))


def _sides(network: Network) -> list[float | None]:
    """Returns the side of each stage's map in pixels, ``None`` for tokens."""
    shapes = [network.shapes[f"stage_{k}"] for k in range(1, network.num_stages + 1)]
    return [math.sqrt(s[1] * s[2]) if len(s) == 3 else None for s in shapes]


def _nearest(few: list[float], many: list[float]) -> list[int]:
    taken = [len(many)]
    for k in range(len(few) - 1, 0, -1):  # 1-based; the k stages from here up need k partners
        ratio = few[k - 1] / few[-1]
        free = range(taken[0] - 1, k - 1, -1)
        taken.insert(0, min(free, key=lambda j: abs(math.log(ratio * many[-1] / many[j - 1]))))
    return taken
