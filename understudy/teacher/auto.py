"""What `table: auto` means: remember on the disk where it pays and fits."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from understudy.teacher.fingerprint import Fingerprint
from understudy.teacher.layout import Layout
from understudy.teacher.shard import ENTRY
from understudy.teacher.table import META

MIN_HITS = 0.1
"""Share of the teacher's work that a single run must save."""
MAX_DISK = 0.5
"""Share of the free disk that a full table may take."""


def auto_table(
    layout: Layout, fingerprint: Fingerprint, folder: Path, *, epochs: int, runs: int = 1
) -> tuple[Path | None, str]:
    """Returns where a run's table should be, ``None`` for no table, and a note.

    A table that is there already is used. A new one must save a tenth of the teacher's work in the coming runs and
    take at most half of the free disk when full.

    Args:
        layout: of the rows.
        fingerprint: what the answers belong to; it names the table within ``folder``.
        folder: where tables lie, side by side; it need not exist.
        epochs: of a run.
        runs: how many share the table, this one counted; they show the same views in the same epochs (a study's do).
    """
    path = table_path(folder, fingerprint)
    if (path / META).exists():
        return path, f"the teacher's answers are kept in {path}"
    hits = expected_hits(epochs, layout.views, runs)
    if hits < MIN_HITS:
        return (
            None,
            f"no table of the teacher's answers: {epochs * runs} epochs would reuse {hits:.0%} of them",
        )
    size = layout.rows * (layout.row_bytes + ENTRY.itemsize)
    free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free
    if size > MAX_DISK * free:
        return None, (
            f"no table of the teacher's answers: it may grow to {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are "
            "free. teacher.table_dtype=fp16 halves it"
        )
    return (
        path,
        f"the teacher's answers are kept in {path} (up to {size / 2**30:.2f} GiB; {hits:.0%} will be reused)",
    )


def table_path(folder: Path, fingerprint: Fingerprint) -> Path:
    """Returns where ``auto`` keeps the table that belongs to a fingerprint, among others in ``folder``."""
    return folder / fingerprint.digest[:16]


def expected_hits(epochs: int, views: int, runs: int = 1) -> float:
    """Returns the share of answers that are there already over so many epochs, from an empty table on.

    Every epoch draws one of the views of each image, evenly: ``views * (1 - (1 - 1 / views)^epochs)`` are distinct.
    Every other run of the same views finds all of its answers there.

    Example:
        >>> from understudy.teacher.auto import expected_hits
        >>> round(expected_hits(240, 162), 3), round(expected_hits(5 * 240, 162), 3)
        (0.478, 0.865)
        >>> round(expected_hits(240, 162, runs=5), 3)
        0.896
    """
    if views == 1:
        return 1 - 1 / (epochs * runs)
    distinct = -views * math.expm1(epochs * math.log1p(-1 / views))  # exact for any number of views
    return 1 - distinct / (epochs * runs)
