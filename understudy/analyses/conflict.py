"""Where the gradients of labels and teacher disagree: layer by layer, head against backbone, over training."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from itertools import islice

import torch
from torch import Tensor

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.build import augmentation, data_seed
from understudy.data.loader import TrainLoader
from understudy.files import read_json_lines
from understudy.report.plots import Bars, Curve, Curves, Plot

BATCHES = 20
"""Augmented training batches that are looked at, at every moment."""
WHOLE, HEAD = "backbone", "head"


def conflict(pair: Pair) -> Finding:
    """Returns how often, and how far, the two gradients point apart."""
    moments = {epoch: measure(pair, epoch) for epoch in pair.over_training()}
    last = moments[pair.config.train.epochs]
    rows: list[list[Value]] = [
        [epoch, layer, *values.values()]
        for epoch, layers in moments.items()
        for layer, values in layers.items()
    ]
    layers = [layer for layer in last if layer not in (WHOLE, HEAD)]
    numbers = {f"{part}/{key}": v for part in (WHOLE, HEAD) if part in last for key, v in last[part].items()}
    negative = [last[layer]["negative"] for layer in layers]
    plots: list[Plot] = [
        Bars(
            "layers",
            "Batches in conflict, by layer, %",
            "%",
            tuple(layers),
            (("negative dot products", negative),),
        )
    ]
    if len(moments) > 1:
        parts = [part for part in (WHOLE, HEAD) if part in last]
        curves = tuple(
            Curve(part, list(moments), [m.get(part, {}).get("negative", math.nan) for m in moments.values()])
            for part in parts
        )
        plots.append(Curves("training", "Batches in conflict over training, %", "epoch", "%", curves))
    plots += _logged(pair)
    notes = (
        f"On {BATCHES} augmented training batches, student in training mode, each side with its weights in the run. "
        "λ = max(0, −⟨a, b⟩)/‖a‖² (a: labels, b: teacher) is what alignment adds to the labels' side.",
        "Layers that only one side reaches (both heads of a dual-head student) have no angle and are left out.",
    )
    return Finding(
        numbers, {"layers": Sheet(("epoch", "layer", *next(iter(last.values()))), rows)}, tuple(plots), notes
    )


def measure(pair: Pair, epoch: int) -> dict[str, dict[str, float]]:
    """Returns the angle of the two gradients for every layer that both sides reach, the backbone and the head.

    Returns:
        ``negative``, the share of batches with a negative inner product in percent; ``cosine`` and ``lambda``, means
        over the batches.
    """
    distiller = pair.distiller
    kept = {name: tensor.clone() for name, tensor in distiller.state_dict().items()}
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    torch.manual_seed(0)  # dropout
    distiller.train()
    try:
        for batch in islice(_loader(pair).epoch(epoch), BATCHES):
            out = distiller(**batch.inputs, epoch=max(epoch - 1, 0))
            if out.label_loss is None or out.guide_loss is None:
                break  # the schedule has switched one side off
            for part, products in _products(pair, out.label_loss, out.guide_loss).items():
                found[part].append(products)
    finally:
        distiller.load_state_dict(kept)
        distiller.eval()
    return {part: _summary(products) for part, products in found.items()} or {WHOLE: _summary([])}


def _products(pair: Pair, label: Tensor, guide: Tensor) -> dict[str, tuple[float, float, float]]:
    """Returns ⟨a, b⟩, ‖a‖² and ‖b‖² of every part of the student that both sides reach."""
    distiller = pair.distiller
    named = [(n, p) for n, p in distiller.student.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    a = torch.autograd.grad(label, parameters, retain_graph=True, allow_unused=True)
    b = torch.autograd.grad(guide, parameters, allow_unused=True)
    head = distiller.network.head
    sums: dict[str, Tensor] = {}
    for (name, _), ours, theirs in zip(named, a, b, strict=True):
        if ours is None or theirs is None:
            continue
        layer = name.rpartition(".")[0]
        products = torch.stack(
            [(x.double() * y.double()).sum() for x, y in ((ours, theirs), (ours, ours), (theirs, theirs))]
        )
        for part in (layer, HEAD if layer == head else WHOLE):
            sums[part] = sums.get(part, 0) + products
    return {part: (float(v[0]), float(v[1]), float(v[2])) for part, v in sums.items()}


def _summary(products: list[tuple[float, float, float]]) -> dict[str, float]:
    if not products:
        return dict.fromkeys(("negative", "cosine", "lambda"), float("nan"))
    cosines = [dot / max((a * b) ** 0.5, 1e-300) for dot, a, b in products]
    strengths = [max(0.0, -dot) / a if a > 0 else 0.0 for dot, a, _ in products]
    return {
        "negative": 100 * statistics.fmean(dot < 0 for dot, _, _ in products),
        "cosine": statistics.fmean(cosines),
        "lambda": statistics.fmean(strengths),
    }


def _loader(pair: Pair) -> TrainLoader:
    data, config = pair.built.data, pair.config
    return TrainLoader(
        data.train,
        augmentation(config.data, data),
        batch_size=min(config.train.batch_size, len(data.train)),
        seed=data_seed(config),
        mean=data.mean,
        std=data.std,
        device=pair.device,
    )


def _logged(pair: Pair) -> list[Plot]:
    """Returns what the run itself logged of its alignment, over the epochs."""
    lines = [line for line in read_json_lines(pair.folder / "metrics.jsonl") if "train/conflict" in line]
    if not lines:
        return []
    epochs = [line["epoch"] for line in lines]
    return [
        Curves(key, title, "epoch", unit, (Curve(key, epochs, [line[f"train/{key}"] for line in lines]),))
        for key, title, unit in (
            ("conflict", "Steps in conflict while training, %", "%"),
            ("lambda", "λ while training, mean over the steps", "λ"),
        )
    ]
