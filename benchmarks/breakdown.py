"""Where a step goes, in the released loop and in the library: is the baseline slower than its parts?

    python benchmarks/breakdown.py            # prints both and writes results/breakdown.json

Every part of `released` is timed alone, on its own inputs, over and over; the step is timed as a whole. If the loop
held anything that slows it down beside what it must do, the whole would be longer than the sum.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from arms.released import Released
from arms.setting import Setting
from arms.synthetic import plain_config, register, write_weights
from machine import machine
from torch import Tensor

from understudy.bench import bench

RESULTS = Path(__file__).with_name("results")


def released_parts(arm: Released, repeats: int) -> dict[str, float]:
    """Returns the median milliseconds of every part of a released step, each measured alone, and of whole steps."""
    batches = arm.batches()
    batch, target = next(batches)
    answers = arm.ask(batch)
    label_gradient = guide_gradient = torch.empty(0)
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = _clock(batch)
        result = call()
        times.setdefault(name, []).append(1000 * (_clock(batch) - began))
        return result

    def alone(name: str, call: Callable[[], Any]) -> None:
        for _ in range(repeats):
            timed(name, call)

    for _ in range(2):
        arm.step(batch, target)  # warm-up; makes the optimiser's state
    alone("loader: PIL, one by one", lambda: next(batches))
    alone("teacher", lambda: arm.ask(batch))
    for _ in range(repeats):
        main, aux = timed("student forward", lambda: arm.student(batch))
        label, guide = timed("losses", lambda m=main, a=aux: arm.losses(m, a, answers, target))
        guide_gradient = timed("backward of the teacher's loss", lambda g=guide: arm.differentiate(g))
        label_gradient = timed("alignment: second backward", lambda x=label: arm.differentiate(x))
        _ = timed(
            "synchronisation: .item(), top-k", lambda x=(label, guide), m=main: arm.record(x, m, target)
        )
    alone("alignment: projection, copy", lambda: arm.write(arm.project(label_gradient, guide_gradient)))
    alone("optimiser", arm.optimizer.step)
    for _ in range(repeats):
        timed("step", lambda: arm.step(*next(batches)))
    return {name: median(values) for name, values in times.items()}


def describe(record: dict[str, Any]) -> list[str]:
    """Returns both breakdowns as Markdown tables."""
    parts = dict(record["released"])
    step = parts.pop("step")
    total = sum(parts.values())
    lines = ["| part of a released step, measured alone | ms |", "|---|---|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in parts.items()]
    lines += [
        f"| sum of the parts | {total:.1f} |",
        f"| whole step | {step:.1f} ({step / total:.2f} of the sum) |",
    ]
    mine = record["library"]
    lines += ["", "| part of a step of the library, cold, fp32 (`understudy bench`) | ms |", "|---|---|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in mine["parts_ms"].items()]
    return [*lines, f"| whole step, without a stopwatch | {mine['step_ms']:.1f} |"]


def measure(
    student: str, teacher: str, images: int, threads: int, device: str, repeats: int
) -> dict[str, Any]:
    """Returns both breakdowns of DHKD with alignment, float32."""
    torch.set_num_threads(threads)
    register(images)
    with tempfile.TemporaryDirectory(prefix="understudy-benchmark-") as folder:
        files = write_weights(Path(folder), student, teacher)
        config = plain_config(files, student, teacher, threads, device)
        arm = Released(Setting("released", config, images=images, aux=files["aux"]))
        parts = released_parts(arm, repeats)
        cold = Setting("library", config, {"teacher.precision": "fp32", "teacher.table": "off"})
        return {
            "machine": machine(threads, device),
            "released": parts,
            "library": bench(cold.read(), quiet=True),
        }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description="Time the parts of a released step, and of a step of the library"
    )
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    record = measure(given.student, given.teacher, given.images, given.threads, given.device, given.repeats)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "breakdown.json").write_text(json.dumps(record) + "\n")
    print("\n".join(describe(record)))


def _clock(like: Tensor) -> float:
    if like.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
