"""Which stages a method over stages compares: chosen once, checked, and read as maps."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, TypeAlias

from torch import Tensor

from understudy.heads.tokens import as_map
from understudy.interface import Network, Outputs, Setup

Stages: TypeAlias = tuple[tuple[int, int], ...]
"""Pairs ``(student stage, teacher stage)``, shallow to deep."""
Place: TypeAlias = Literal["stage", "preact"]
"""Behind a stage's last activation, or in front of it."""


def resolve_stages(
    given: Stages | None,
    setup: Setup,
    name: str,
    *,
    place: Place | tuple[Place, Place] = "stage",
    stem: bool = False,
) -> Stages:
    """Returns the pairs of stages a method compares: those given, checked, or else the automatic pairing.

    Args:
        given: the method's ``stages``.
        setup: both networks and their pairing.
        name: config name of the method, for the error.
        place: where the method reads the stages, of student and teacher if they differ.
        stem: whether the method reads stage 0 too; the automatic pairing then begins with ``(0, 0)``.

    Raises:
        ValueError: there is no stage to compare, one of them does not exist, or those given are not in order: losses
            that weigh stages or compare neighbours would read them wrong.
    """
    pairs = given if given is not None else ((0, 0),) * stem + setup.pairs
    if not pairs and setup.guide.head is None and not setup.guide.num_stages:
        raise ValueError(
            f"{name} must compare the teacher's stages, got {type(setup.guide.module).__name__}, which shows its "
            "logits only. Take a method on logits (kd, dkd, dhkd), or a teacher that is a PyTorch module"
        )
    if given == ():
        raise ValueError(
            f"{name}.stages must hold at least one pair (student, teacher), got none. Leave the setting out for all "
            "paired stages"
        )
    if not pairs:
        raise ValueError(
            f"{name} must compare at least one pair of stages, got none. "
            "Name the networks' stages in the config, e.g. taps: {stage_1: layer1}"
        )
    sides = (("student", setup.student), ("teacher", setup.guide))
    places = place if isinstance(place, tuple) else (place, place)
    for i, (side, network) in enumerate(sides):
        place = places[i]
        found = _numbers(network, place, stem)
        for pair in pairs:
            if pair[i] not in found:
                raise ValueError(
                    f"{name}.stages must be pairs (student, teacher) of stages that exist, got {side} "
                    f"{place}_{pair[i]}. The {side}, {type(network.module).__name__}, has "
                    f"{', '.join(f'{place}_{k}' for k in found) or 'none: name them in the config (taps)'}"
                )
    if any(b == a or b[0] < a[0] or b[1] < a[1] for a, b in pairwise(pairs)):
        raise ValueError(
            f"{name}.stages must go from shallow to deep in both networks, every pair once, got "
            f"{[list(pair) for pair in pairs]}. Sort them, for example [[1, 1], [2, 3]]"
        )
    return tuple((student, teacher) for student, teacher in pairs)


def paired_maps(
    student: Outputs, teacher: Outputs, stages: Stages | None, place: Place = "stage"
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the student's and the teacher's maps ``(B, C, H, W)`` of the paired stages, tokens laid out.

    Raises:
        ValueError: ``stages`` are not resolved, or a tap is neither a map nor a square of tokens.
    """
    if stages is None:
        raise ValueError(
            "a method over stages must know its stages, got none. Use what method.resolved(setup) returns"
        )
    return (
        [as_map(student[f"{place}_{k}"]) for k, _ in stages],
        [as_map(teacher[f"{place}_{k}"]) for _, k in stages],
    )


def _numbers(network: Network, place: Place, stem: bool) -> list[int]:
    first = 0 if stem else 1
    return [k for k in range(first, network.num_stages + 1) if f"{place}_{k}" in network.shapes]
