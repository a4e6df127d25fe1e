"""One shard of a view table: a log of rows, and what they are, to which one process appends and which all read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.teacher.layout import Layout

ENTRY = np.dtype([("key", "<i8"), ("mark", "<u4")])
"""What the index says of a row: entry number s belongs to the row in slot s of ``rows-K.bin``."""
NUMPY: dict[str, str] = {"fp16": "<f2", "fp32": "<f4", "fp64": "<f8"}
_FILE = re.compile(r"(?:rows|index)-(\d+)\.bin")


class Shard:
    """``rows-K.bin``, of full size, but sparse, and ``index-K.bin``, which has an :data:`ENTRY` for each of its rows.

    Neither is there before the first row is written. Rows that were cut off come back as zeros, which fit no mark.

    Args:
        folder: of the table.
        number: K.
        layout: of the rows.
    """

    def __init__(self, folder: Path, number: int, layout: Layout) -> None:
        self.number, self.layout = number, layout
        self.count = 0
        """Slots whose entries were read or written by this process."""
        self._rows_file, self._index_file = files(folder, number)
        self._map: NDArray[Any] | None = None
        self._open: list[int] = []

    def rows(self, slots: NDArray[np.int64]) -> NDArray[Any]:
        """Returns a copy of the rows ``(B, width)`` in slots below :attr:`count`."""
        return self._mapped()[slots]

    def unread(self, most: int) -> NDArray[Any]:
        """Returns up to ``most`` entries that were added since the last time, none if their rows cannot be read."""
        entries = read_entries(self._index_file, self.count, min(most, self.layout.rows - self.count))
        if len(entries) > 0:
            try:
                self._mapped()
            except OSError:  # they were cut off, on a disk that is read-only; or they were removed
                return entries[:0]
        self.count += len(entries)
        return entries

    def write(self, slots: NDArray[np.int64], values: NDArray[Any], entries: NDArray[Any]) -> None:
        """Writes rows, then their entries; for the shard's owner, who has read all its entries.

        Args:
            slots: where ``(B,)``; those from :attr:`count` on follow one another, and are written at once.
            values: ``(B, width)``.
            entries: ``(B,)``.

        Raises:
            OSError: the disk is full, or fails; all rows stored before are as they were.
        """
        self._mapped()
        if not self._open:
            for path in (self._rows_file, self._index_file):
                self._open.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
        added, replaced = np.flatnonzero(slots >= self.count), np.flatnonzero(slots < self.count)
        for file, items in zip(self._open, (values, entries), strict=True):
            _write(file, items[added], self.count * items[:1].nbytes)
            for k in replaced:
                _write(file, items[k : k + 1], int(slots[k]) * items[:1].nbytes)
        self.count += len(added)

    def close(self) -> None:
        """Brings what was written to the disk; a second time does nothing.

        Raises:
            OSError: the disk fails.
        """
        try:
            for file in self._open:
                os.fsync(file)
        finally:
            for file in self._open:
                os.close(file)
            self._open = []

    def _mapped(self) -> NDArray[Any]:
        """Returns the map of the rows; makes the file, or lengthens it, if it is too short.

        Whoever finds it short may lengthen it, owner or not: no process ever gives it another size.
        """
        if self._map is None:
            path, size = self._rows_file, self.layout.rows * self.layout.row_bytes
            if not path.exists() or path.stat().st_size < size:
                path.touch()
                os.truncate(path, size)
            shape = (self.layout.rows, self.layout.width)
            self._map = np.memmap(path, NUMPY[self.layout.dtype], "r", shape=shape)
        return self._map


def files(folder: Path, number: int) -> tuple[Path, Path]:
    """Returns where the rows and the entries of a shard are."""
    return folder / f"rows-{number}.bin", folder / f"index-{number}.bin"


def shards_in(folder: Path) -> list[int]:
    """Returns the numbers of the shards that hold something, in order."""
    try:
        found = [_FILE.fullmatch(name) for name in os.listdir(folder)]
    except FileNotFoundError:  # the table was removed
        return []
    return sorted({int(match[1]) for match in found if match})


def read_entries(path: Path, first: int = 0, count: int = -1) -> NDArray[Any]:
    """Returns up to ``count`` whole entries of an index from ``first`` on, all by default."""
    try:
        if path.stat().st_size < (first + 1) * ENTRY.itemsize:
            return np.empty(0, ENTRY)
        with path.open("rb") as file:
            return np.fromfile(file, ENTRY, count, offset=first * ENTRY.itemsize)
    except FileNotFoundError:
        return np.empty(0, ENTRY)


def _write(file: int, values: NDArray[Any], offset: int) -> None:
    """Writes all of an array; a map would be killed by a full disk where this raises."""
    left = memoryview(values.tobytes())
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written
