"""Files of a run or a study -> one self-contained HTML page.

Only files are read, so a report can be written again at any time, also of a run that was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from understudy.files import write_text
from understudy.report.figures import Picture, save
from understudy.report.folder import read_run, read_study
from understudy.report.page import render
from understudy.report.run_page import run_context
from understudy.report.study_page import study_context

__all__ = ["write_run_report", "write_study_report"]


def write_run_report(run: Path, alone: Path | None = None, *, figures: bool = False) -> Path:
    """Writes ``report.html`` into a run folder and returns its path.

    The page holds the result first, the table (teacher, student alone, distilled; last and best), curves, the
    confusion matrix, images that were misclassified, and what was run. It needs no network and no other file.

    Args:
        run: a run folder; what it does not hold yet is left out of the page.
        alone: the run folder of the same student trained without a teacher, to compare with.
        figures: write every figure as PNG and SVG into ``run / "figures"``, too.

    Returns:
        ``run / "report.html"``, replaced in one step.

    Raises:
        ValueError: a folder is not a run folder, or one of its files cannot be read as what it should be.
    """
    context = run_context(read_run(Path(run)), None if alone is None else read_run(Path(alone)))
    if figures:
        _save(Path(run), context["figures"])
    return _write(Path(run) / "report.html", render("run.html", context))


def write_study_report(study: Path, *, figures: bool = False) -> Path:
    """Writes ``report.html`` into a study folder and returns its path.

    The page holds the verdict first, the table of arms, a plot of every seed, learning curves (where the run
    folders are present) and what was run.

    Args:
        study: a folder with a ``study.json``.
        figures: write every figure as PNG and SVG into ``study / "figures"``, too.

    Returns:
        ``study / "report.html"``, replaced in one step.

    Raises:
        ValueError: there is no ``study.json``, or it or a file of its runs cannot be read.
    """
    context = study_context(read_study(Path(study)))
    if figures:
        _save(Path(study), [context["gaps"], context["dots"], *context["figures"]])
    return _write(Path(study) / "report.html", render("study.html", context))


def _save(folder: Path, pictures: Sequence[Picture | None]) -> None:
    (folder / "figures").mkdir(exist_ok=True)
    for picture in pictures:
        if picture is not None:
            save(picture, folder / "figures")


def _write(path: Path, html: str) -> Path:
    """Replaces ``path`` in one step; half a surrogate pair (JSON can spell it) becomes ``?``."""
    write_text(path, html.encode("utf-8", errors="replace").decode("utf-8"))
    return path
