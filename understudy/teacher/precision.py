"""Which arithmetic the teacher runs in: bf16 only where a test at start-up finds it right, and faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from understudy.clock import clock
from understudy.widest import widen

MAX_DEVIATION = 0.1
"""Largest error of any logit in bf16, in units of the logits' spread; about 0.02 is usual, a wrong kernel gives 1."""
MIN_AGREEMENT = 0.98
"""Smallest share of images whose first class is the same (first classes closer than the error do not count)."""
MIN_SPEEDUP = 1.1
"""bf16 must be faster by this factor: less is noise, and fp32 is the better teacher."""
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """What the teacher should run in, and why."""

    precision: Literal["fp32", "bf16"]
    """``fp32`` stands for the precision of the weights themselves."""
    note: str


def choose_precision(module: nn.Module, images: Tensor) -> PrecisionChoice:
    """Returns the precision of a teacher, which is run both ways on some images, about ten passes in all.

    Args:
        module: the network as it will run (folded, in its memory format), in eval mode.
        images: real training images, normalised, ``(B, C, H, W)``; some tens are enough.
    """
    if images.dtype != torch.float32:
        return PrecisionChoice("fp32", f"the teacher runs in {images.dtype}, the type of its weights")
    run = {"fp32": lambda: _logits(module, images, False), "bf16": lambda: _logits(module, images, True)}
    deviation, agreement = compare_logits(run["fp32"](), run["bf16"]())
    if not (deviation <= MAX_DEVIATION and agreement >= MIN_AGREEMENT):
        return PrecisionChoice(
            "fp32",
            f"the teacher runs in fp32: in bf16 its logits are off by {deviation:.2g} of their spread, and "
            f"{agreement:.1%} of {len(images)} images keep their first class",
        )
    speedup = measure_speedup(run["fp32"], run["bf16"], images.device)
    if speedup < MIN_SPEEDUP:
        return PrecisionChoice(
            "fp32",
            f"the teacher runs in fp32: bf16 was {speedup:.2f} times as fast, worth it from {MIN_SPEEDUP}",
        )
    return PrecisionChoice(
        "bf16",
        f"the teacher runs in bf16: {speedup:.2f} times as fast as fp32, logits off by {deviation:.2g} of their "
        f"spread at most, {agreement:.1%} of {len(images)} images keep their first class",
    )


def compare_logits(reference: Tensor, tried: Tensor) -> tuple[float, float]:
    """Returns the largest error in units of the reference's spread, and the share of images with the same first class.

    Spread is the standard deviation over the classes, root mean square over the images. An image whose two first
    classes are closer together than twice the largest error says nothing and counts as kept.

    Shape:
        reference, tried: ``(B, C)``.
    """
    spread = (reference - reference.mean(1, keepdim=True)).square().mean().sqrt()
    error = (tried - reference).abs().max()
    top = reference.topk(min(2, reference.shape[1]), dim=1).values
    kept = (tried.argmax(1) == reference.argmax(1)) | (top[:, 0] - top[:, -1] <= 2 * error)
    if not bool(torch.isfinite(error)):
        return float("inf"), 0.0
    return float(error / spread.clamp_min(1e-30)), float(widen(kept).mean())


def measure_speedup(slow: Callable[[], object], fast: Callable[[], object], device: torch.device) -> float:
    """Returns how many times as fast ``fast`` is: best of three each, in turns, after a pass to warm up."""
    best = [float("inf"), float("inf")]
    for number in range(_ROUNDS + 1):
        for k, run in enumerate((slow, fast)):
            began = clock(device)
            run()
            took = clock(device) - began
            if number > 0:
                best[k] = min(best[k], took)
    return best[0] / max(best[1], 1e-9)


def _logits(module: nn.Module, images: Tensor, half: bool) -> Tensor:
    with torch.no_grad(), torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=half):
        return module(images).float()
