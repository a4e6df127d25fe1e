"""The view table: a folder with the teacher's answers to views of images, safe to share and safe to kill."""

from __future__ import annotations

import fcntl
import json
import os
import time
from io import BufferedRandom
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.files import write_json
from understudy.teacher.fingerprint import Fingerprint
from understudy.teacher.layout import Layout
from understudy.teacher.marks import RowMarks

FORMAT = 1
META, ROWS, INDEX, LOCK = "meta.json", "rows.bin", "index.bin", ".lock"
FILES = (META, ROWS, INDEX, LOCK)
ENTRY = np.dtype([("key", "<i8"), ("mark", "<u4")])
"""What the index says of a row: entry number s belongs to the row in slot s of ``rows.bin``."""
_NUMPY: dict[str, str] = {"fp16": "<f2", "fp32": "<f4", "fp64": "<f8"}
_WAIT = 10.0  # seconds for another process that is just creating the table


class ViewTable:
    """Rows on a disk, read through a memory map, filled in the order in which they come.

    A folder of ``meta.json`` (what it belongs to), ``rows.bin`` (rows one after the other as they were learnt; made in
    full size, but sparse: it takes the space of what is filled) and ``index.bin`` (for each of them, which row of the
    layout it is, and its :class:`understudy.teacher.marks.RowMarks`). So a block of answers is stored by two writes,
    where rows in the layout's order would dirty a page of the disk for each.

    *Killed.* Rows are written before their entries. A process that dies between the two leaves rows without an entry,
    which count as missing and are overwritten. After a power cut the disk may hold an entry and not its row: the mark
    does not fit then, and the row counts as missing. So nothing waits for the disk before :meth:`close`.

    *Damaged.* A row is compared with its mark on every read, is never handed out unless it fits, and is written again
    when it was computed again. That costs about a millisecond for 2000 rows of 100 numbers. A ``rows.bin`` that is
    too short is lengthened, with rows that do not fit. (To shorten it *while* it is open ends the process, as with any
    memory map.)

    *Shared.* Any number of processes read; the one that holds the lock writes. The others see its rows as they come,
    and may take over when it ends (:meth:`claim`). The lock dies with its owner.

    The index takes 8 bytes of memory a row that is filled; a full table of CIFAR's 162 views takes 65 MB.

    Args:
        path: the folder; created if it does not exist.
        fingerprint: what the answers belong to.
        layout: of the rows.

    Raises:
        ValueError: the folder holds something else: another teacher's or other data's answers (the message names
            what differs), other files, or a table that is damaged and cannot be mended by this process.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self._marks_of = RowMarks(layout.row_bytes, int(fingerprint.digest[:16], 16))
        self._lock: BufferedRandom | None = None
        self._files: dict[str, int] = {}
        self._count = 0  # slots in use
        self._slots = np.zeros(
            layout.rows, np.int64 if layout.rows >= 2**31 else np.int32
        )  # from 1; 0 is absent
        self._marks = np.zeros(layout.rows, np.uint32)
        path.mkdir(parents=True, exist_ok=True)
        try:
            if not (path / META).exists():
                (path / LOCK).touch()  # raises where nothing can be written
            if self._take_lock() and not (path / META).exists():
                self._create(fingerprint)
            self._check(fingerprint)
            self._mend()
            shape = (layout.rows, layout.width)
            self._rows: NDArray[Any] = np.memmap(path / ROWS, _NUMPY[layout.dtype], "r", shape=shape)
            self._catch_up()
        except BaseException:
            self._release()
            raise

    @property
    def writable(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock is not None

    @property
    def filled(self) -> int:
        """Number of rows that are there, by the index."""
        return int(np.count_nonzero(self._slots))

    def claim(self) -> bool:
        """Takes the lock if it is free; returns whether this process has it."""
        if not self.writable and self._take_lock():
            self._catch_up()
        return self.writable

    def _take_lock(self) -> bool:
        try:
            lock = (self.path / LOCK).open("a+b")
        except OSError:  # somebody else's table, or on a disk that is read-only: read it
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True

    def present(self, keys: Tensor) -> Tensor:
        """Returns which rows are there, by the index: bool ``(B,)`` for int64 ``(B,)``."""
        if not self.writable:
            self._catch_up()
        return torch.from_numpy(self._slots[keys.numpy()] > 0)

    def read(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Returns rows ``(B, width)`` and which of them may be used ``(B,)``; the others hold anything."""
        numbers = keys.numpy()
        slots = self._slots[numbers]
        rows = self._rows[np.maximum(slots, 1) - 1]  # a copy
        intact = (slots > 0) & (self._marks[numbers] == self._marks_of(numbers, rows))
        return torch.from_numpy(rows), torch.from_numpy(intact)

    def write(self, keys: Tensor, rows: Tensor) -> None:
        """Stores rows, those that are there already in their old places; does nothing without the lock.

        Args:
            keys: their numbers ``(B,)``, each once.
            rows: ``(B, width)`` in the layout's type.

        Raises:
            OSError: the disk is full, or fails; all rows stored before are as they were.
        """
        if not self.writable:
            return
        numbers, values = keys.cpu().numpy(), rows.detach().cpu().numpy()
        slots = self._slots[numbers].astype(np.int64) - 1
        new = np.flatnonzero(slots < 0)
        added, rest = np.split(new, [self.layout.rows - self._count])
        slots[added] = self._count + np.arange(len(added))
        if len(rest) > 0:  # all slots are taken, some by rows whose keys were damaged
            taken = self._slots[self._slots > 0] - 1
            slots[rest] = np.setdiff1d(np.arange(self._count), taken)[: len(rest)]
        replaced = np.setdiff1d(np.arange(len(numbers)), added)
        entries = np.empty(len(numbers), ENTRY)
        entries["key"], entries["mark"] = numbers, self._marks_of(numbers, values)
        for name, items in ((ROWS, values), (INDEX, entries)):
            _write(self._file(name), items[added], self._count * items[:1].nbytes)
            for k in replaced:
                _write(self._file(name), items[k : k + 1], int(slots[k]) * items[:1].nbytes)
        self._slots[numbers], self._marks[numbers] = slots + 1, entries["mark"]
        self._count += len(added)

    def close(self) -> None:
        """Brings everything to the disk and releases the lock; a second time does nothing.

        Raises:
            OSError: the disk fails.
        """
        try:
            if self.writable:
                for name in (ROWS, INDEX):
                    os.fsync(self._file(name))
        finally:
            self._release()

    def __enter__(self) -> ViewTable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _create(self, fingerprint: Fingerprint) -> None:
        others = sorted(
            p.name for p in self.path.iterdir() if p.name not in FILES and not p.name.endswith(".tmp")
        )
        if others:
            raise ValueError(
                f"teacher.table must be an empty folder or a view table, got {self.path} with {others[0]!r} in it. "
                "Choose another folder"
            )
        for name in (ROWS, INDEX):
            os.ftruncate(self._file(name), 0)  # what a crash before meta.json left
        self._mend()
        parts, layout = dict(fingerprint.parts), self.layout
        sizes = {"images": layout.images, "views": layout.views, "row_bytes": layout.row_bytes}
        write_json(self.path / META, {"format": FORMAT, **sizes, "parts": parts})

    def _check(self, fingerprint: Fingerprint) -> None:
        deadline = time.monotonic() + _WAIT
        while not (self.path / META).exists() and time.monotonic() < deadline:
            time.sleep(0.02)  # its owner writes meta.json last
        differing = fingerprint.differing(read_meta(self.path)["parts"])
        if differing:
            raise ValueError(
                f"view table {self.path} must belong to this teacher and these data, got one with other "
                f"{', '.join(differing)}. Remove it (understudy table remove) or set another teacher.table"
            )

    def _mend(self) -> None:
        """Gives ``rows.bin`` its full size: at the start, and if it was cut short."""
        size = self.layout.rows * self.layout.row_bytes
        if self.writable:
            if os.fstat(self._file(ROWS)).st_size < size:
                os.ftruncate(self._file(ROWS), size)
        elif not (self.path / ROWS).exists() or (self.path / ROWS).stat().st_size < size:
            raise ValueError(
                f"view table {self.path} must be whole, got a shorter {ROWS}. "
                "Open it once while no other process uses it, and it is mended"
            )

    def _catch_up(self) -> None:
        """Reads the entries that were added to the index since the last time."""
        entries = read_index(self.path, self._count, self.layout.rows - self._count)
        slots = self._count + np.arange(len(entries))
        known = (entries["key"] >= 0) & (entries["key"] < self.layout.rows)  # not so if a bit was flipped
        self._slots[entries["key"][known]] = slots[known] + 1
        self._marks[entries["key"][known]] = entries["mark"][known]
        self._count += len(entries)

    def _file(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o666)
        return self._files[name]

    def _release(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def read_meta(path: Path) -> dict[str, Any]:
    """Returns what a table says of itself.

    Raises:
        ValueError: there is no table, or it is of another format.
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise ValueError(
                f"view table {path} must have format {FORMAT}, got {meta['format']}. Remove it and fill it anew"
            )
        return {
            **{key: int(meta[key]) for key in ("images", "views", "row_bytes")},
            "parts": {**meta["parts"]},
        }
    except FileNotFoundError:
        raise ValueError(f"a view table must have a {META}, got none in {path}. Check the path") from None
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(
            f"view table {path} must have a readable {META}, got a damaged one. Remove it"
        ) from None


def read_index(path: Path, first: int = 0, count: int = -1) -> NDArray[Any]:
    """Returns up to ``count`` whole entries of a table's index from ``first`` on, all by default."""
    try:
        with (path / INDEX).open("rb") as file:
            return np.fromfile(file, ENTRY, count, offset=first * ENTRY.itemsize)
    except FileNotFoundError:
        return np.empty(0, ENTRY)


def _write(file: int, values: NDArray[Any], offset: int) -> None:
    """Writes all of an array; a map would be killed by a full disk where this raises."""
    left = memoryview(values.tobytes())
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written
