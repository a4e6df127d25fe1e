"""Measures the comparisons and writes `RESULTS.md`.

python benchmarks/run.py --all                       # everything, 15 pairs each, over 3 starts of all processes
python benchmarks/run.py --only kd-ce --only memory  # these anew, the others as they are in results/
python benchmarks/run.py --all --minutes 60          # as many pairs (at most --pairs) as fit
python benchmarks/run.py --smoke                     # tiny networks, two pairs: does it run? Prints, writes nothing
python benchmarks/run.py                             # only writes the page anew
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from arms.setting import Setting
from arms.synthetic import plain_config, write_weights
from comparisons import COMPARISONS, Arm
from machine import machine
from protocol import Fresh, Round, Runs, Worker, rounds
from report import Record, page, row, write_record

HERE = Path(__file__).parent
MEMORY_ROUNDS, MEMORY_STEPS = 5, 10
TWIN = "twin"


@dataclass(frozen=True, slots=True)
class Plan:
    """What all comparisons of a call have in common."""

    config: dict[str, Any]
    aux: str
    images: int
    pairs: int
    starts: int
    """How often all processes are started anew; the pairs are shared out."""
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


def measure(names: list[str], plan: Plan, deadline: float) -> dict[str, tuple[list[Round], str | None]]:
    """Returns the rounds of all comparisons, taken in one go, and the last words of an arm that failed.

    Peaks of memory are taken in processes of their own, a comparison at a time.
    """
    timed = [name for name in names if COMPARISONS[name].kind != "memory"]
    found: dict[str, tuple[list[Round], str | None]] = {}
    for start in range(plan.starts if timed else 0):
        now, left = time.monotonic(), plan.starts - start
        with ExitStack() as stack:
            part = _measured(
                timed,
                plan,
                lambda arm, stack=stack: stack.enter_context(Worker(plan.setting(arm), plan.threads)),
                least=plan.least_steps,
                seconds=plan.least_seconds,
                pairs=len(range(start, plan.pairs, plan.starts)),
                deadline=now + (deadline - now) / left,
            )
        for name, (taken, failed) in part.items():
            before, why = found.get(name, ([], None))
            found[name] = [*before, *(replace(r, start=start) for r in taken)], why or failed
    for name in names:
        if name not in timed:
            found |= _measured(
                [name],
                plan,
                lambda arm: Fresh(lambda: Worker(plan.setting(arm), plan.threads)),
                least=min(MEMORY_STEPS, plan.least_steps),
                seconds=0.0,
                pairs=min(MEMORY_ROUNDS, plan.pairs),
            )
    return found


def _measured(
    names: list[str], plan: Plan, start: Callable[[Arm], Runs], **manner: Any
) -> dict[str, tuple[list[Round], str | None]]:
    """Returns the rounds of comparisons whose arms take turns; the arm that most are compared with runs twice."""
    pairs = {name: (key(COMPARISONS[name].a), key(COMPARISONS[name].b)) for name in names}
    settings = {key(arm): arm for name in names for arm in (COMPARISONS[name].a, COMPARISONS[name].b)}
    ((control, _),) = Counter(b for _, b in pairs.values()).most_common(1)
    order = [control, *(name for name in settings if name != control)]
    arms = {name: start(settings[name]) for name in order} | {TWIN: start(settings[control])}
    failed: dict[str, str] = {}
    found: dict[str, tuple[list[Round], str | None]] = {name: ([], None) for name in names}
    for number, blocks in enumerate(rounds(arms, failed, **manner), start=1):
        print(f"round {number}: {sum(block.wall for block in blocks.values()):.0f} s", flush=True)
        for name, (a, b) in pairs.items():
            if all(arm in blocks for arm in (a, b, control, TWIN)):
                found[name][0].append(Round(blocks[a], blocks[b], blocks[control], blocks[TWIN]))
    words = {
        name: [failed[arm] for arm in (*arms, control, TWIN) if arm in failed] for name, arms in pairs.items()
    }
    return {name: (taken, words[name][0] if words[name] else None) for name, (taken, _) in found.items()}


def key(arm: Arm) -> str:
    """Returns a name under which equal arms are one."""
    return json.dumps(asdict(arm), sort_keys=True)


def run(names: list[str], plan: Plan, minutes: float | None) -> None:
    """Measures comparisons and prints a line for each."""
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    where = machine(plan.threads, plan.config["train"]["device"])
    for name, (done, failed) in measure(names, plan, deadline).items():
        comparison = COMPARISONS[name]
        unknown = sorted({*plan.setting(comparison.a).unknown(), *plan.setting(comparison.b).unknown()})
        record = Record(where, done, unknown, failed)
        write_record(plan.results / f"{name}.json", record, comparison)
        print(row(name, comparison, record), flush=True)


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
                starts=given.starts,
                least_steps=given.steps,
                least_seconds=given.seconds,
                warm_steps=given.warm_steps,
                threads=given.threads,
                results=results,
            )
            if given.smoke:
                plan = replace(plan, pairs=2, starts=1, least_steps=2, least_seconds=0.0, warm_steps=4)
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
    parser.add_argument(
        "--starts", type=int, default=3, help="of all processes; the pairs are shared out (default 3)"
    )
    parser.add_argument("--minutes", type=float, help="stop starting pairs after so long, shared out evenly")
    parser.add_argument("--steps", type=int, default=20, help="of a block, at least (default 20)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block, at least (default 1)")
    parser.add_argument("--warm-steps", type=int, default=32, help="steps whose answers a warm table holds")
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
