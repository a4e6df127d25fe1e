"""Writes the tables of results/*/README.md from their table.csv, and docs/results.md from all of them.

python docs/make_results.py            # write
python docs/make_results.py --check    # exit 1 if a file is stale
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

PAGE = Path(__file__).with_name("results.md")
RESULTS = Path(__file__).parents[1] / "results"
BEGIN, END = "<!-- table -->\n", "<!-- /table -->"
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)]*)\)")
_TITLES = {
    "test/acc1": "top-1, %",
    "test/map": "mAP, %",
    "test/miou": "mIoU, %",
    "test/ap": "AP, %",
    "test/ap50": "AP50, %",
}

INTRODUCTION = """# Results

What was run, on which images, how often, and what came of it. Every section is a folder of `results/`: the config of
the study, every run, the table, versions, and what we make of it. One command re-creates a table from nothing but the
images; given again, it reuses what is finished.

How to read the tables: a score is that of the last epoch on test images that had no say in anything. Mean ± standard
deviation over n seeds; a difference is taken seed by seed, and its ± is Student's 95 % interval. **An interval that
reaches over 0 is within noise.** All runs of a study share one order and one set of views, so the seeds vary
initialisation and dropout, not the images. *Published* is the paper's difference to its own student alone, on CIFAR-100
under 240 epochs: another data set and budget, so only its sign and rough size can be compared.

This file is written by `python docs/make_results.py`.
"""


def table(folder: Path) -> str:
    """Returns the table of one study as Markdown.

    Args:
        folder: with ``table.csv`` and ``runs.csv`` of ``understudy study``, maybe ``published.yaml`` (arm -> points
            above the student alone).
    """
    rows = _rows(folder / "table.csv")
    (score,) = (key for key in _rows(folder / "runs.csv")[0] if key.startswith("test/"))
    stated = folder / "published.yaml"
    published = yaml.safe_load(stated.read_text("utf-8")) if stated.is_file() else {}
    heads = [
        "",
        "model",
        f"test {_TITLES[score]}",
        "n",
        "to student alone",
        "to kd",
        "seeds won",
        "minutes a run",
    ]
    lines = [[*_line(row), published.get(row["arm"], "")] for row in rows]
    heads.append("published")
    kept = [i for i in range(len(heads)) if any(line[i] for line in lines)]
    text = [[heads[i] for i in kept], ["---"] * len(kept), *([str(line[i]) for i in kept] for line in lines)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in text)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _line(row: Mapping[str, str]) -> Sequence[str]:
    spread = f" ± {float(row['std']):.2f}" if row["std"] else ""
    won = f"{row['wins_over_alone']} of {row['seeds_shared_with_alone']}" if row["wins_over_alone"] else ""
    return (
        row["arm"],
        f"`{row['model']}`",
        f"{float(row['mean']):.2f}{spread}" if row["mean"] else "–",
        row["scores"],
        _difference(row, "alone"),
        _difference(row, "kd"),
        won,
        f"{float(row['seconds']) / 60:.1f}" if row["seconds"] else "",
    )


def _difference(row: Mapping[str, str], to: str) -> str:
    if not row[f"minus_{to}"]:
        return ""
    half = row[f"minus_{to}_half_width_95"]
    return f"{float(row[f'minus_{to}']):+.2f}".replace("-", "−") + (f" ± {float(half):.2f}" if half else "")


def readme(folder: Path) -> str:
    """Returns a folder's README with its table as the results stand."""
    text = (folder / "README.md").read_text("utf-8")
    if BEGIN not in text or not (folder / "table.csv").is_file():
        return text
    return text[: text.index(BEGIN)] + BEGIN + table(folder) + text[text.index(END) :]


def machine(folder: Path) -> str:
    """Returns on what a folder's runs were made, as far as it was written down."""
    file = folder / "environment.json"
    if not file.is_file():
        return ""
    found = json.loads(file.read_text("utf-8"))
    cores = f", {found['cores']} cores" if "cores" in found else ""
    return (
        f"\n\nMade on {found['processor']}{cores}, {found['threads']} thread{'s' * (found['threads'] > 1)} a run, "
        f"{found['device']}; Python {found['python']}, torch {found['torch']}, torchvision {found['torchvision']}."
    )


def page() -> str:
    """Returns docs/results.md."""
    parts = [INTRODUCTION]
    for folder in _folders():
        text = readme(folder).replace(BEGIN, "").replace(END + "\n", "")
        text = text.rstrip() + machine(folder)
        linked = _LINK.sub(lambda found, name=folder.name: f"`results/{name}/{found[2]}`", text)
        parts.append("#" + linked.strip().replace("\n#", "\n##") + "\n")
    return "\n".join(parts)


def _folders() -> Iterator[Path]:
    """Yields the folders with a README, those of classification first."""
    order = ["tin32-a", "tin32-a-mobilenet", "cifar10", "figure2", "camvid", "bccd"]
    found = {path.parent.name: path.parent for path in RESULTS.glob("*/README.md")}
    yield from (
        found[name] for name in sorted(found, key=lambda n: (order.index(n) if n in order else 99, n))
    )


def main() -> None:
    """Writes the files, or checks them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    files = {folder / "README.md": readme(folder) for folder in _folders()}
    check = parser.parse_args().check
    for path, text in {**files, PAGE: page()}.items():
        if not check:
            path.write_text(text, "utf-8")
        elif not path.is_file() or path.read_text("utf-8") != text:
            raise SystemExit(f"{path.name} of {path.parent.name} is stale. Run: python docs/make_results.py")


if __name__ == "__main__":
    main()
