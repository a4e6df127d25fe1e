"""What is done to a table outside training: fill it, look at it, check it, remove it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from understudy.teacher.blocks import Blocks
from understudy.teacher.locks import is_held, take_lock
from understudy.teacher.memory import Table
from understudy.teacher.shard import ENTRY, files, read_entries, shards_in
from understudy.teacher.table import LOCK, META, MOST_SHARDS, is_ours, lock_file, read_meta

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
    writers: int
    """Processes that may write to it now."""
    parts: dict[str, str]
    """The fingerprint."""

    @property
    def in_use(self) -> bool:
        """Whether some process may write to it now."""
        return self.writers > 0

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

    May be killed and started again at any time; it goes on where it was. Several processes may fill one table at once:
    each goes through the rows in an order of its own, by chance, and leaves out what another one stored meanwhile. So
    they share the work evenly, whenever they come, and what two of them compute at the same moment is little: of one
    block, the share that a block is of the rows still missing.

    Args:
        table: what to fill.
        blocks: the teacher.
        progress: called after every block with the rows that are there and their number in all.
        stop: asked before every block; what is done by then stays.

    Raises:
        ValueError: the table cannot be written, or as many processes write to it as may.
        OSError: the disk is full; what is done by then stays.
    """
    if not table.claim():
        raise ValueError(
            f"a table must have a free shard in a folder that can be written, got one that is read-only, or has "
            f"{MOST_SHARDS} writers. Check its permissions, or wait until one ends"
        )
    layout, computed = table.layout, 0
    for keys in _missing(table, blocks.size):
        if stop is not None and stop():
            break
        table.write(keys, blocks(*layout.pairs(keys)))
        computed += len(keys)
        if progress is not None:
            progress(table.filled, layout.rows)
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
    for number in range(_count_windows(table)):
        keys = _window(table, number)
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
        stored = table.read(part)[0].cpu().double()
        fresh = blocks(*table.layout.pairs(part)).cpu().double()
        deviation = (stored - fresh).abs().amax(1) / fresh.abs().amax(1).clamp_min(1e-30)
        worst = max(worst, float(deviation.max()))
        wrong += int((deviation > limit).sum())
    return Verification(filled, filled - len(intact), len(keys), wrong, worst)


def info(path: Path) -> TableInfo:
    """Returns what a table's folder says of itself; it may be in use.

    Raises:
        ValueError: there is no table.
    """
    meta, shards = read_meta(path), shards_in(path)
    rows = meta["images"] * meta["views"]
    there = np.zeros(rows, bool)
    for number in shards:
        keys = read_entries(files(path, number)[1])["key"]
        there[keys[(keys >= 0) & (keys < rows)]] = True
    used = [file.stat().st_blocks * 512 for number in shards for file in files(path, number) if file.exists()]
    return TableInfo(
        path,
        meta["images"],
        meta["views"],
        int(there.sum()),
        rows * (meta["row_bytes"] + ENTRY.itemsize),
        sum(used),
        sum(is_held(lock_file(path, number)) for number in range(MOST_SHARDS)),
        meta["parts"],
    )


def remove(path: Path) -> None:
    """Deletes a table, of an earlier format, too, and its folder, and nothing else that may lie there.

    Raises:
        ValueError: there is no table, or a process may write to it.
        OSError: the folder cannot be written.
    """
    read_meta(path, of_any_format=True)
    (path / LOCK).touch()  # raises where nothing can be written
    lock = take_lock(path / LOCK)
    if lock is None:
        raise ValueError(
            f"a view table must not be in use, got a process that writes to {path}. Wait until it ends"
        )
    with lock:
        (path / META).unlink()  # first: what a crash here leaves is no table
        for name in sorted(file.name for file in path.iterdir()):
            if is_ours(name):
                (path / name).unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()


def _missing(table: Table, size: int) -> Iterator[Tensor]:
    """Yields full blocks of keys of missing rows (the last may be smaller), in an order that chance says.

    A block holds rows that nobody has stored by the moment when it is asked for.
    """
    chance = torch.Generator()
    chance.seed()  # another order in every process
    block = torch.empty(0, dtype=torch.int64)
    for number in torch.randperm(_count_windows(table), generator=chance).tolist():
        keys = _lacking(table, _window(table, number))
        keys = keys[torch.randperm(len(keys), generator=chance)]
        for part in keys.split(size):
            block = _lacking(table, torch.cat((block, part)))
            if len(block) >= size:
                yield block[:size]
                block = block[size:]
    block = _lacking(table, block)
    if len(block) > 0:
        yield block


def _lacking(table: Table, keys: Tensor) -> Tensor:
    """Returns those of some keys whose rows are absent or damaged."""
    usable = table.present(keys)
    usable[usable.clone()] = table.read(keys[usable])[1]
    return keys[~usable]


def _count_windows(table: Table) -> int:
    return -(-table.layout.rows // _WINDOW)


def _window(table: Table, number: int) -> Tensor:
    return torch.arange(number * _WINDOW, min((number + 1) * _WINDOW, table.layout.rows))
