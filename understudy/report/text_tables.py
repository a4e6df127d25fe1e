"""A study's table as CSV, Markdown and LaTeX, to be taken into other texts."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.files import write_text
from understudy.metrics import Difference
from understudy.report.folder import items, number, string
from understudy.report.summary import ALONE, KD, ArmLine, arm_lines
from understudy.tasks import TASKS

FILES = ("table.csv", "runs.csv", "table.md", "table.tex")
"""What :func:`write_tables` writes."""

_TITLES = {f"test/{name}": title for task in TASKS.values() for name, title in task.titles.items()}
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so


def write_tables(folder: Path, study: Mapping[str, Any]) -> None:
    """Writes ``table.csv`` (full precision, a line an arm), ``runs.csv``, ``table.md`` and ``table.tex``.

    Args:
        folder: of the study.
        study: the content of its ``study.json``.
    """
    lines = arm_lines(study)
    write_text(folder / "table.csv", _csv(_full(lines)))
    write_text(folder / "runs.csv", _csv(_runs(study)))
    heads, rows = shown(lines, string(study, "metric"))
    write_text(folder / "table.md", markdown(heads, rows, study))
    write_text(folder / "table.tex", latex(heads, rows, study))


def shown(lines: Sequence[ArmLine], metric: str = "") -> tuple[list[str], list[list[str]]]:
    """Returns heads and rows of the table as people read it; a column that no arm fills is left out.

    Args:
        lines: one an arm.
        metric: what the scores are; by default top-1 accuracy.
    """
    columns: dict[str, list[str]] = {
        "": [line.name for line in lines],
        "model": [line.model for line in lines],
        "parameters": [_count(line.parameters) for line in lines],
        "extra in training": [_count(line.extra) for line in lines],
        f"test {_TITLES.get(metric, 'top-1')}": [_score(line) for line in lines],
        f"to {ALONE}": [interval(line.to_alone) for line in lines],
        f"to {KD}": [interval(line.to_kd) for line in lines],
        "wins": [wins(line.to_alone) for line in lines],
        "seconds": ["" if line.seconds is None else f"{line.seconds:.1f}" for line in lines],
        "peak MiB": ["" if line.memory is None else f"{line.memory:.0f}" for line in lines],
        "published": [published_text(line) for line in lines],
    }
    kept = {head: cells for head, cells in columns.items() if any(cells)}
    return list(kept), [[cells[i] for cells in kept.values()] for i in range(len(lines))]


def interval(gap: Difference | None) -> str:
    """Returns a difference with its 95% interval, empty for none.

    Example:
        >>> from understudy.metrics import paired_difference
        >>> from understudy.report.text_tables import interval
        >>> interval(paired_difference([70.8, 71.0], [70.0, 70.0])), interval(paired_difference([70.0], [70.8]))
        ('+0.90 ± 1.27', '−0.80')
    """
    if gap is None:
        return ""
    sign = f"{gap.mean:+.2f}".replace("-", "−")
    return sign if gap.half_width is None else f"{sign} ± {gap.half_width:.2f}"


def wins(gap: Difference | None) -> str:
    """Returns on how many of the shared seeds an arm was above, empty where they are not paired."""
    return "" if gap is None or gap.wins is None else f"{gap.wins} of {gap.n[0]}"


def published_text(line: ArmLine) -> str:
    """Returns the published numbers of an arm, those that tables give differently side by side."""
    return " / ".join(f"{entry.value:.2f}" for entry in line.published)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], study: Mapping[str, Any]) -> str:
    """Returns the table as Markdown, its verdicts above it."""
    said = study.get("verdicts")
    lines = [f"# {_md(string(study, 'title'))}", ""]
    lines += [f"- {_md(str(verdict))}" for verdict in said] if isinstance(said, list) else []
    lines += ["", "| " + " | ".join(map(_md, heads)) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(map(_md, row)) + " |" for row in rows]
    return "\n".join([*lines, "", _md(string(study, "what")), ""])


def latex(heads: Sequence[str], rows: Sequence[Sequence[str]], study: Mapping[str, Any]) -> str:
    """Returns the table as a LaTeX ``tabular`` (package booktabs), what was run as a comment above it."""
    what = " ".join(string(study, "what").split())
    body = [" & ".join(map(_tex, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            f"% {what}",
            r"\begin{tabular}{ll" + "r" * (len(heads) - 2) + "}",
            r"\toprule",
            " & ".join(map(_tex, heads)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _full(lines: Sequence[ArmLine]) -> list[dict[str, Any]]:
    """Returns every number of the arms, unrounded."""
    return [
        {
            "arm": line.name,
            "model": line.model,
            "method": line.method,
            "runs": line.planned,
            "scores": len(line.scores),
            "mean": line.mean,
            "std": None if line.summary is None else line.summary.std,
            **_gap_columns("alone", line.to_alone),
            **_gap_columns("kd", line.to_kd),
            "seconds": line.seconds,
            "peak_memory_mib": line.memory,
            "parameters": line.parameters,
            "extra_parameters": line.extra,
            "published": published_text(line),
            "published_source": " / ".join(entry.source for entry in line.published),
        }
        for line in lines
    ]


def _gap_columns(name: str, gap: Difference | None) -> dict[str, Any]:
    return {
        f"minus_{name}": None if gap is None else gap.mean,
        f"minus_{name}_half_width_95": None if gap is None else gap.half_width,
        f"wins_over_{name}": None if gap is None else gap.wins,
        f"seeds_shared_with_{name}": None if gap is None or gap.wins is None else gap.n[0],
    }


def _runs(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    metric = string(study, "metric") or "test/acc1"
    return [
        {
            "arm": string(arm, "name"),
            "seed": string(run, "seed"),
            metric: number(run, metric),
            "seconds": number(run, "seconds"),
            "peak_memory_mib": number(run, "peak_memory_mib"),
            "path": string(run, "path"),
        }
        for arm in items(study, "arms")
        for run in items(arm, "runs")
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def csv_cell(value: Any) -> Any:
    """Returns a value of a table; text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _score(line: ArmLine) -> str:
    if line.summary is None:
        return ""
    spread = "" if line.summary.std is None else f" ± {line.summary.std:.2f}"
    return f"{line.summary.mean:.2f}{spread}"


def _md(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line."""
    marks = "\\`*_{}[]<>|#$~"
    return "".join(f"\\{c}" if c in marks else c for c in " ".join(text.split()))


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))
