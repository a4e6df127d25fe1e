"""Roles of a detector, which names what it shows itself: nothing is hooked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from understudy.interface import Network
from understudy.models.detection import Detector
from understudy.taps.trace import dry_run

_HEAD = "roi_heads.box_predictor.cls_score"


def describe_detector(module: Detector, example: Tensor, overrides: Mapping[str, str] | None) -> Network:
    """Returns a detector with its roles: ``stage_k`` is level k of the pyramid, ``logits`` and ``feature`` are a box's.

    ``preact_k`` is ``stage_k``: no activation ends a level.

    Args:
        module: what is to be read; it is not changed.
        example: images.
        overrides: none can be given.

    Raises:
        ValueError: taps were named.
    """
    if overrides:
        raise ValueError(
            f"taps must be left out for a detector, whose levels are known, got {', '.join(overrides)}. Take them out"
        )
    dry_run(module, example)  # refuses what are no images
    network, modes = Network(module, _HEAD, {}, {}, detects=True), {m: m.training for m in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            shown = with_levels(ask(network, example[:1].to(next(module.parameters()))))
    finally:
        for inner, mode in modes.items():
            inner.training = mode
    shapes = {role: tuple(tensor.shape[1:]) for role, tensor in shown.items()}
    shapes |= {role: shapes[role][1:] for role in ("logits", "feature")}  # of one box
    return replace(network, shapes=shapes)


def ask(network: Network, images: Tensor) -> Any:
    """Returns what a network says of images; a detector, what it shows of one box each, their middle."""
    if not network.detects:
        return network.module(images)
    height, width = images.shape[2:]
    box = images.new_tensor([width / 4, height / 4, 3 * width / 4, 3 * height / 4])
    return network.module(images, box.expand(len(images), 1, 4))


def with_levels(shown: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what a detector showed, its levels as pre-activations, too."""
    levels = {role.replace("stage", "preact"): t for role, t in shown.items() if role.startswith("stage_")}
    return {**shown, **levels}
