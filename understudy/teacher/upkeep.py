"""What is done to a table outside training: fill it, look at it, check it, remove it."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from understudy.teacher.blocks import Blocks
from understudy.teacher.memory import Table
from understudy.teacher.table import ENTRY, FILES, INDEX, LOCK, ROWS, read_index, read_meta

_WINDOW = 2**16  # rows looked at in one go
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Precision of the teacher -> how far a stored row may be from a computed one, relative to its largest number; other
processors round differently."""


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table at a glance."""

    path: Path
    images: int
    views: int
    filled: int
    """Rows that are there, by the index."""
    bytes_full: int
    """Size once all rows are there."""
    bytes_used: int
    """What the disk holds now."""
    in_use: bool
    """Whether some process holds the lock."""
    parts: dict[str, str]
    """The fingerprint."""

    @property
    def share(self) -> float:
        """Filled rows, from 0 to 1."""
        return self.filled / (self.images * self.views)


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check found."""

    filled: int
    """Rows that are there."""
    damaged: int
    """Of these, rows that do not fit their marks; they are never used, and computed anew when needed."""
    recomputed: int
    """Rows that the teacher answered again."""
    wrong: int
    """Of these, rows that say something else: the table is not this teacher's, whatever its fingerprint says."""
    worst: float
    """Largest deviation of a recomputed row, relative to its largest number; 0 on the machine that filled it."""

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged or wrong."""
        return self.damaged == 0 and self.wrong == 0


def fill(
    table: Table,
    blocks: Blocks,
    *,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> int:
    """Computes all views that are not there, damaged ones included; returns how many rows were computed.

    May be killed and started again at any time; it goes on where it was.

    Args:
        table: what to fill.
        blocks: the teacher.
        progress: called after every block with the rows that are done and their number in all.
        stop: asked before every block; what is done by then stays.

    Raises:
        ValueError: another process writes to the table.
        OSError: the disk is full; what is done by then stays.
    """
    if not table.claim():
        raise ValueError(
            "a table must have one writer, got another process that holds it. Wait until it ends"
        )
    layout, computed = table.layout, 0
    for keys, done in _missing(table, blocks.size):
        if stop is not None and stop():
            break
        if len(keys) > 0:
            table.write(keys, blocks(*layout.pairs(keys)))
            computed += len(keys)
        if progress is not None:
            progress(done, layout.rows)
    return computed


def verify(table: Table, blocks: Blocks, *, sample: int = 1024, seed: int = 0) -> Verification:
    """Compares every row with its mark, and a random sample of rows with the teacher's answers.

    Args:
        table: what to check; it may be in use.
        blocks: the teacher.
        sample: rows to compute again.
        seed: which ones.
    """
    whole = []
    filled = 0
    for keys in _windows(table):
        keys = keys[table.present(keys)]
        filled += len(keys)
        whole.append(keys[table.read(keys)[1]])
    intact = torch.cat(whole)
    chosen = torch.randperm(len(intact), generator=torch.Generator().manual_seed(seed))[:sample]
    keys = intact[chosen].sort().values
    worst, wrong = 0.0, 0
    limit = TOLERANCE[blocks.teacher.precision]
    for part in keys.split(blocks.size):
        if len(part) == 0:
            continue
        stored = table.read(part)[0].double().cpu()
        fresh = blocks(*table.layout.pairs(part)).double().cpu()
        deviation = (stored - fresh).abs().amax(1) / fresh.abs().amax(1).clamp_min(1e-30)
        worst = max(worst, float(deviation.max()))
        wrong += int((deviation > limit).sum())
    return Verification(filled, filled - len(intact), len(keys), wrong, worst)


def info(path: Path) -> TableInfo:
    """Returns what a table's folder says of itself; it may be in use.

    Raises:
        ValueError: there is no table.
    """
    meta = read_meta(path)
    used = sum((path / name).stat().st_blocks * 512 for name in (ROWS, INDEX) if (path / name).exists())
    rows = meta["images"] * meta["views"]
    return TableInfo(
        path,
        meta["images"],
        meta["views"],
        len(np.unique(read_index(path)["key"])),
        rows * (meta["row_bytes"] + ENTRY.itemsize),
        used,
        _in_use(path),
        meta["parts"],
    )


def remove(path: Path) -> None:
    """Deletes a table and its folder, and nothing else that may lie there.

    Raises:
        ValueError: there is no table, or a process writes to it.
    """
    read_meta(path)
    with (path / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"a view table must not be in use, got a process that writes to {path}. Wait until it ends"
            ) from None
        for name in FILES:  # meta.json first: what a crash here leaves is no table
            (path / name).unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()


def _missing(table: Table, size: int) -> Iterator[tuple[Tensor, int]]:
    """Yields full blocks of keys of missing rows in order (the last may be smaller), and the rows done with them."""
    held = torch.empty(0, dtype=torch.int64)
    for keys in _windows(table):
        held = torch.cat((held, keys[~table.read(keys)[1]]))
        while len(held) >= size:
            yield held[:size], int(held[size - 1]) + 1
            held = held[size:]
    yield held, table.layout.rows


def _windows(table: Table) -> Iterator[Tensor]:
    for first in range(0, table.layout.rows, _WINDOW):
        yield torch.arange(first, min(first + _WINDOW, table.layout.rows))


def _in_use(path: Path) -> bool:
    try:
        with (path / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
