"""From the files in `results/` to `RESULTS.md`; numbers are computed here, from all rounds, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import breakdown
from comparisons import COMPARISONS, EVALUATED, TRAINED, Comparison
from machine import describe
from protocol import Block, Round, median_interval

ENOUGH = 15
"""Rounds that a claim needs."""
BATCH = 64

_HEAD = (
    "| | a / b | n | a | b | ratio [95%] | CPU time | A/A [95%] | goal | |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
_INTRODUCTION = """# Results

Written by `python benchmarks/run.py`; the rounds behind every number are in `results/`. How they are taken, and what
the arms are, is in [README.md](README.md).

- *a*, *b*: each arm's median milliseconds for 64 images, unless a unit stands there. They drift with the machine.
- *ratio*: the median over n pairs of the ratio of wall times inside the pair, with its bootstrap 95% interval, drawn
  over the starts of the processes first, then over the pairs of each.
- *CPU time*: the same ratio of seconds over all cores.
- *A/A*: the same for two processes of one arm, at the two ends of a round. `=`: the ratio's interval touches it, so
  this machine sees no difference. *Control off*: its interval leaves out 1, so a difference of that size means nothing.
- *met*, *missed*: the whole interval does; *at the median*: the goal lies inside the interval. *Out of reach*: the goal
  is beyond the interval of the row that bounds it, the step's convolutions alone. `n`: under 15 pairs, which prove
  nothing (peaks of memory scatter little: 5 do).
"""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one comparison."""

    machine: dict[str, Any]
    rounds: list[Round]
    unknown: list[str]
    """Overrides that the library did not know."""
    failed: str | None = None
    """Why there is nothing, or nothing more."""


def write_record(path: Path, record: Record, comparison: Comparison) -> None:
    """Writes one comparison as lines of JSON: what it was, then its rounds."""
    head = {
        "says": comparison.says,
        "machine": record.machine,
        "unknown": record.unknown,
        "failed": record.failed,
    }
    lines = [head, *(asdict(r) for r in record.rounds)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_record(path: Path) -> Record | None:
    """Returns a comparison's file, ``None`` if there is none."""
    if not path.exists():
        return None
    head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    rounds = [
        Round(**{key: Block(**value) if isinstance(value, dict) else value for key, value in line.items()})
        for line in lines
    ]
    return Record(head["machine"], rounds, head["unknown"], head["failed"])


def datum(kind: str, a: Block, b: Block, clock: str = "wall") -> float:
    """Returns what one pair says."""
    if kind == "rate":
        return a.images / getattr(a, clock)
    if kind == "memory":
        return a.rss / b.rss
    ratio = (getattr(a, clock) / a.images) / (getattr(b, clock) / b.images)
    if kind == "share":
        return ratio * EVALUATED / (ratio * EVALUATED + TRAINED)
    return ratio


def verdict(goal: tuple[str, float] | None, middle: float, low: float, high: float) -> str:
    """Returns whether a goal is met, in words."""
    if goal is None:
        return ""
    sign, bound = goal
    if sign == ">=":
        middle, low, high, bound = -middle, -high, -low, -bound  # now smaller is better either way
    if high <= bound:
        return "met"
    if low > bound:
        return "missed"
    return "met at the median" if middle <= bound else "missed at the median"


def row(name: str, comparison: Comparison, record: Record | None, bound: Record | None = None) -> str:
    """Returns a comparison's line of the table; ``bound`` is the record of the comparison that bounds it."""
    goal = comparison.goal
    wanted = "" if goal is None else f"{'≥' if goal[0] == '>=' else '≤'} {_number(goal[1], comparison.kind)}"
    if record is None or not record.rounds:
        why = "not measured" if record is None or record.failed is None else f"failed: {record.failed}"
        return f"| `{name}` | {comparison.says} | 0 | | | | | | {wanted} | {why} |"
    kind, rounds = comparison.kind, record.rounds
    starts = [r.start for r in rounds]
    middle, low, high = median_interval([datum(kind, r.a, r.b) for r in rounds], starts)
    control = "memory" if kind == "memory" else "time"
    same, same_low, same_high = median_interval([datum(control, r.twin, r.control) for r in rounds], starts)
    marks = [verdict(goal, middle, low, high)]
    if goal is not None and bound is not None and bound.rounds:
        ends = median_interval(
            [datum(kind, r.a, r.b) for r in bound.rounds], [r.start for r in bound.rounds]
        )[1:]
        marks += ["out of reach"] if verdict(goal, ends[0], *ends) == "missed" else []
    if kind in ("time", "memory") and low <= same_high and same_low <= high:
        marks.append("`=`")
    if not same_low <= 1 <= same_high:
        marks.append("control off")
    if len(rounds) < ENOUGH and kind != "memory":
        marks.append("`n`")
    cpu = (
        ""
        if kind == "memory"
        else _number(median_interval([datum(kind, r.a, r.b, "cpu") for r in rounds])[0], kind)
    )
    ratio = f"**{_number(middle, kind)}** [{_number(low, kind)}, {_number(high, kind)}]"
    cells = [
        f"`{name}`",
        comparison.says,
        str(len(rounds)),
        _size(kind, [r.a for r in rounds]),
        _size(kind, [r.b for r in rounds]),
        ratio,
        cpu,
        f"{same:.3f} [{same_low:.3f}, {same_high:.3f}]",
        wanted,
        ", ".join(mark for mark in marks if mark),
    ]
    return "| " + " | ".join(cells) + " |"


def page(folder: Path, comparisons: Mapping[str, Comparison] = COMPARISONS) -> str:
    """Returns ``RESULTS.md`` out of the files in ``folder``."""
    records = {name: read_record(folder / f"{name}.json") for name in comparisons}
    lines = [_INTRODUCTION, "## Machine\n", *_machines(records)]
    titles = {
        "same numerics": "Same numerics: float32 everywhere, views of one distribution",
        "best default": "Best default: student and teacher in bf16 where the library finds it right and faster",
        "either": "Rates, shares and memory",
    }
    for track, title in titles.items():
        rows = [
            row(n, c, records[n], records.get(c.bound or ""))
            for n, c in comparisons.items()
            if c.track == track
        ]
        lines += [f"\n## {title}\n", _HEAD, *rows]
    unknown = sorted({key for r in records.values() if r is not None for key in r.unknown})
    if unknown:
        lines += ["", f"Not known to the library that was measured, and left out: {', '.join(unknown)}."]
    if (folder / "breakdown.json").exists():
        record = json.loads((folder / "breakdown.json").read_text())
        lines += ["\n## Where a step goes (`python benchmarks/breakdown.py`)\n", *breakdown.describe(record)]
    return "\n".join(lines) + "\n"


def _machines(records: Mapping[str, Record | None]) -> list[str]:
    """Returns every machine once: when and on which commits it was used, and how busy it was at the starts."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records.values():
        if record is not None:
            found.setdefault(describe(record.machine), []).append(record.machine)
    lines = []
    for machine, uses in found.items():
        dates, loads = sorted(m["date"] for m in uses), sorted(m["load_average"] for m in uses)
        commits = ", ".join(sorted({m["commit"] for m in uses}))
        lines.append(
            f"- {machine}. Comparisons: {len(uses)}, {dates[0]} to {dates[-1]}, commit {commits}; load average when "
            f"they began {loads[0]} to {loads[-1]} (our own arms leave up to {uses[0]['threads']})."
        )
    return lines


def _size(kind: str, blocks: list[Block]) -> str:
    """Returns what one arm takes alone; only ratios within a pair are compared."""
    if kind == "memory":
        return f"{median_interval([b.rss / 2**20 for b in blocks])[0]:,.0f} MiB"
    return f"{median_interval([1000 * BATCH * b.wall / b.images for b in blocks])[0]:.3g}"


def _number(value: float, kind: str) -> str:
    if kind == "rate":
        return f"{value:,.0f}/s"
    return f"{100 * value:.2f}%" if kind == "share" else f"{value:.3f}"
