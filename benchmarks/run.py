"""Measures the comparisons and writes `RESULTS.md`.

python benchmarks/run.py --all                       # everything, 15 pairs each
python benchmarks/run.py --only kd-ce --only memory  # these anew, the others as they are in results/
python benchmarks/run.py --all --minutes 60          # as many pairs (at most --pairs) as fit
python benchmarks/run.py --smoke                     # tiny networks, two pairs: does it run? Prints, writes nothing
python benchmarks/run.py                             # only writes the page anew
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from arms.setting import Setting
from arms.synthetic import plain_config, write_weights
from comparisons import COMPARISONS, Arm, Comparison
from machine import machine
from protocol import ArmError, Round, Worker, choose_steps, fresh_rounds, rounds
from report import Record, page, row, write_record

HERE = Path(__file__).parent
MEMORY_ROUNDS, MEMORY_STEPS = 5, 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What all comparisons of a call have in common."""

    config: dict[str, Any]
    aux: str
    images: int
    pairs: int
    least_steps: int
    least_seconds: float
    warm_steps: int
    threads: int
    results: Path

    def setting(self, arm: Arm) -> Setting:
        """Returns what an arm of the table is told."""
        return Setting(
            arm=arm.name,
            config=self.config,
            overrides=arm.overrides,
            images=self.images,
            aux=self.aux,
            warm_steps=self.warm_steps if arm.warm else 0,
        )


def measure(comparison: Comparison, plan: Plan, deadline: float) -> tuple[list[Round], str | None]:
    """Returns the rounds of a comparison and, if an arm failed, its last words."""
    a, b = plan.setting(comparison.a), plan.setting(comparison.b)
    done: list[Round] = []
    try:
        if comparison.kind == "memory":
            settings = {"a": a, "b": b, "twin": b}
            stream = fresh_rounds(
                lambda name: Worker(settings[name], plan.threads),
                steps=min(MEMORY_STEPS, plan.least_steps),
                pairs=min(MEMORY_ROUNDS, plan.pairs),
                deadline=deadline,
            )
            done.extend(stream)
            return done, None
        with ExitStack() as stack:
            arms = [stack.enter_context(Worker(s, plan.threads)) for s in (a, b, b)]
            steps = choose_steps(arms, least=plan.least_steps, seconds=plan.least_seconds)
            for pair in rounds(*arms, steps=steps, pairs=plan.pairs, deadline=deadline):
                done.append(pair)
    except ArmError as error:
        return done, str(error)
    return done, None


def run(names: list[str], plan: Plan, minutes: float | None) -> None:
    """Measures comparisons one after the other, sharing the time out evenly, and prints a line for each."""
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for number, name in enumerate(names):
        comparison, began = COMPARISONS[name], time.monotonic()
        deadline = float("inf") if end is None else began + max(0.0, end - began) / (len(names) - number)
        where = machine(plan.threads, plan.config["train"]["device"])
        done, failed = measure(comparison, plan, deadline)
        unknown = sorted({*plan.setting(comparison.a).unknown(), *plan.setting(comparison.b).unknown()})
        record = Record(where, done, unknown, failed)
        write_record(plan.results / f"{name}.json", record, comparison)
        print(f"{time.monotonic() - began:6.0f} s  {row(name, comparison, record)}", flush=True)


def main() -> None:
    """Reads the command line."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="understudy-benchmark-") as folder:
        results = Path(folder) / "results" if given.smoke else given.results
        names = list(COMPARISONS) if given.all or given.smoke else given.only
        if names:
            files = write_weights(Path(folder), given.student, given.teacher)
            plan = Plan(
                config=plain_config(files, given.student, given.teacher, given.threads, given.device),
                aux=files["aux"],
                images=given.images,
                pairs=given.pairs,
                least_steps=given.steps,
                least_seconds=given.seconds,
                warm_steps=given.warm_steps,
                threads=given.threads,
                results=results,
            )
            if given.smoke:
                plan = replace(plan, pairs=2, least_steps=2, least_seconds=0.0, warm_steps=4)
            run(names, plan, given.minutes)
        if given.all or given.smoke:
            shown = ("student", "teacher", "images", "threads", "device")
            options = [f"--{key}={getattr(given, key)}" for key in shown]
            repeats = 2 if given.smoke else given.pairs
            subprocess.run(
                [
                    sys.executable,
                    HERE / "breakdown.py",
                    *options,
                    f"--results={results}",
                    f"--repeats={repeats}",
                ],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        if given.smoke:
            print(page(results))
        else:
            written = results.parent / "RESULTS.md"
            written.write_text(page(results))
            print(f"wrote {written}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="all comparisons and the breakdown")
    parser.add_argument("--only", action="append", default=[], choices=list(COMPARISONS), metavar="NAME")
    parser.add_argument("--smoke", action="store_true", help="does everything run? Small, quick, no result")
    parser.add_argument("--pairs", type=int, default=15, help="of every comparison (default 15)")
    parser.add_argument("--minutes", type=float, help="stop starting pairs after so long, shared out evenly")
    parser.add_argument("--steps", type=int, default=20, help="of a block, at least (default 20)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block, at least (default 1)")
    parser.add_argument("--warm-steps", type=int, default=64, help="steps whose answers a warm table holds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every arm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--student", default="resnet8x4", help="with a classifier called fc")
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--images", type=int, default=50_000, help="synthetic training images")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    if given.smoke:
        given.student, given.teacher, given.images, given.threads = "resnet8", "resnet14", 512, 1
    return given


if __name__ == "__main__":
    main()
