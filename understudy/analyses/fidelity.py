"""How closely the student answers like its teacher, how far either can be trusted, and what each costs."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.metrics import Reliability, likeness, per_class_accuracy, quality, reliability_table
from understudy.report.plots import Bars, Curve, Curves

REPEATS = 30
"""Forward passes whose median is the latency."""


def fidelity(pair: Pair) -> Finding:
    """Returns accuracy, agreement, calibration and cost of student and teacher on the test images."""
    seen = pair.see("test")
    logits = {"student": seen.student} | ({} if seen.teacher is None else {"teacher": seen.teacher})
    numbers = {f"{name}/{k}": v for name, z in logits.items() for k, v in quality(z, seen.target).items()}
    if seen.teacher is not None:
        numbers |= likeness(seen.student, seen.teacher, seen.target)
    modules = {"student": pair.distiller.deployable().eval()}
    modules |= {name: network.module for name, network in pair.distiller.guides.networks.items()}
    tables = {name: reliability_table(z, seen.target) for name, z in logits.items()}
    accuracy = {name: per_class_accuracy(z, seen.target) for name, z in logits.items()}
    return Finding(
        numbers,
        {
            "cost": Sheet(
                ("model", "parameters", "bytes", "flops", "latency_ms", "latency_batch32_ms"),
                [[name, *cost(module, pair.example)] for name, module in modules.items()],
            ),
            "classes": _classes(pair.classes, seen.target, accuracy),
            "reliability": _reliability(tables),
        },
        (
            Curves(
                "reliability",
                "Accuracy by confidence",
                "confidence",
                "accuracy",
                tuple(
                    Curve(name, table.confidence.tolist(), table.accuracy.tolist())
                    for name, table in tables.items()
                ),
                diagonal=True,
            ),
            _gains(pair.classes, accuracy),
        ),
        (
            "FLOPs: two a multiply-add, of one image, convolutions and matrix products only.",
            f"Latency: median of {REPEATS} passes on {pair.device}, threads: {torch.get_num_threads()}.",
        ),
    )


@torch.no_grad()
def cost(module: nn.Module, example: Tensor) -> list[Value]:
    """Returns parameters, bytes of weights and buffers, FLOPs of an image, and latency of 1 and of 32 images in ms."""
    tensors = [*module.parameters(), *module.buffers()]
    with FlopCounterMode(display=False) as counter:
        module(example)
    return [
        sum(p.numel() for p in module.parameters()),
        sum(t.numel() * t.element_size() for t in tensors),
        counter.get_total_flops(),
        1000 * _latency(module, example),
        1000 * _latency(module, example.expand(32, *example.shape[1:]).contiguous()),
    ]


def _latency(module: nn.Module, images: Tensor) -> float:
    times = []
    for _ in range(REPEATS + 3):
        began = time.perf_counter()
        float(module(images).flatten()[0])  # reads the device: the work is done
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


def _classes(names: tuple[str, ...], target: Tensor, accuracy: dict[str, Tensor]) -> Sheet:
    counts = target.bincount(minlength=len(names)).tolist()
    rows: list[list[Value]] = []
    for c, name in enumerate(names):
        values = [100 * float(a[c]) for a in accuracy.values()]
        rows.append([name, counts[c], *values, *([values[0] - values[1]] if len(values) > 1 else [])])
    gain = ("student_minus_teacher",) if len(accuracy) > 1 else ()
    return Sheet(("class", "images", *(f"{name}_acc1" for name in accuracy), *gain), rows)


def _reliability(tables: dict[str, Reliability]) -> Sheet:
    rows: list[list[Value]] = []
    for name, table in tables.items():
        columns = (table.edges[:-1], table.edges[1:], table.count, table.confidence, table.accuracy)
        rows += [[name, *values] for values in zip(*(column.tolist() for column in columns), strict=True)]
    return Sheet(("model", "above", "up_to", "images", "confidence", "accuracy"), rows)


def _gains(names: tuple[str, ...], accuracy: dict[str, Tensor]) -> Bars:
    student = accuracy["student"]
    if "teacher" not in accuracy:
        return Bars("classes", "Accuracy by class, %", "%", names, (("student", (100 * student).tolist()),))
    gap = 100 * (student - accuracy["teacher"])
    return Bars(
        "classes",
        "Student minus teacher, by class",
        "points",
        names,
        (("student minus teacher", gap.tolist()),),
    )
