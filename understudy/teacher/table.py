"""The view table: a folder with the teacher's answers to views of images, safe to share and safe to kill."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.files import write_json
from understudy.teacher.fingerprint import Fingerprint
from understudy.teacher.layout import Layout
from understudy.teacher.locks import take_lock
from understudy.teacher.marks import RowMarks
from understudy.teacher.shard import ENTRY, NUMPY, Shard, shards_in

FORMAT = 2
META, LOCK = "meta.json", ".lock"
MOST_SHARDS = 64
"""Processes that may write to one table at once; more only read."""
_OURS = re.compile(r"meta\.json|\.meta\.json\.\d+\.tmp|\.lock(-\d+)?|(rows|index)(-\d+)?\.bin")
_WAIT = 10.0  # seconds for another process that is just creating the table, or removing it
_PIECE = 2**20  # entries read at once


class ViewTable:
    """Rows on a disk, read through memory maps, filled in the order in which they come, by several processes at once.

    A folder of ``meta.json`` (what it belongs to) and of shards, one for every process that ever wrote at the same
    time as others. A shard is ``rows-K.bin`` (rows one after the other as they were learnt; made in full size, but
    sparse: it takes the space of what is filled) and ``index-K.bin`` (for each of them, which row of the layout it
    is, and its :class:`understudy.teacher.marks.RowMarks`). So a block of answers is stored by two writes, where rows
    in the layout's order would dirty a page of the disk for each.

    *Shared.* A process that opens the table claims the first shard that nobody holds (``.lock-K``), or a new one, up
    to :data:`MOST_SHARDS`; without one it only reads. All read all shards, and see others' rows as they come. The
    lock dies with its owner, and the shard is free for whoever comes next (:meth:`claim`). A row that two processes
    stored is there twice, and either copy will do.

    *Killed.* Rows are written before their entries. A process that dies between the two leaves rows without an entry,
    which count as missing and are overwritten. After a power cut the disk may hold an entry and not its row: the mark
    does not fit then, and the row counts as missing. So nothing waits for the disk before :meth:`close`.

    *Damaged.* A row is compared with its mark on every read, is never handed out unless it fits, and is written again
    when it was computed again: in its old place, or, if that is in the shard of another process, in the own shard. Of
    several copies one that fits its mark is taken. That costs about a millisecond for 2000 rows of 100 numbers. A
    ``rows-K.bin`` that is too short is lengthened, with rows that do not fit. (To shorten it *while* it is open ends
    the process, as with any memory map.)

    The index takes 8 bytes of memory a row that is filled; a full table of CIFAR's 162 views takes 65 MB. (From 67
    million rows on it takes 12.)

    Args:
        path: the folder; created if it does not exist.
        fingerprint: what the answers belong to.
        layout: of the rows.

    Raises:
        ValueError: the folder holds something else: another teacher's or other data's answers (the message names
            what differs), other files, or a table that is damaged and cannot be mended.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self._marks_of = RowMarks(layout.row_bytes, int(fingerprint.digest[:16], 16))
        self._held = ExitStack()
        self._own: Shard | None = None
        self._shards: dict[int, Shard] = {}
        places = np.uint32 if MOST_SHARDS * layout.rows < 2**32 else np.int64
        self._places = np.zeros(layout.rows, places)  # shard * rows + slot, from 1; 0 is absent
        self._marks = np.zeros(layout.rows, np.uint32)
        self._filled = 0
        path.mkdir(parents=True, exist_ok=True)
        if not (path / META).exists():
            self._create(fingerprint)
        differing = fingerprint.differing(read_meta(path)["parts"])
        if differing:
            raise ValueError(
                f"view table {path} must belong to this teacher and these data, got one with other "
                f"{', '.join(differing)}. Remove it (understudy table remove) or set another teacher.table"
            )
        self._created = _identity(path)
        try:
            self.claim()
            self._catch_up()
        except BaseException:
            self._held.close()
            raise

    @property
    def writable(self) -> bool:
        """Whether this process holds a shard."""
        return self._own is not None

    @property
    def filled(self) -> int:
        """Number of rows that are there, by the index."""
        return self._filled

    def claim(self) -> bool:
        """Takes a shard if it has none and one is free; returns whether this process may write."""
        if self._own is None:
            lock = take_lock(self.path / LOCK, shared=True, wait=_WAIT)  # nobody may remove the table now
            if lock is None:
                return False
            with ExitStack() as held:
                held.enter_context(lock)
                number = self._claimed(held) if _identity(self.path) == self._created else None
                if number is not None:
                    self._own = self._shard(number)
                    self._read_entries(self._own)
                    self._held = held.pop_all()
        return self.writable

    def present(self, keys: Tensor) -> Tensor:
        """Returns which rows are there, by the index: bool ``(B,)`` for int64 ``(B,)``."""
        self._catch_up()
        return torch.from_numpy(self._places[keys.numpy()] > 0)

    def read(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Returns rows ``(B, width)`` and which of them may be used ``(B,)``; the others hold anything."""
        numbers = keys.numpy()
        places = self._places_of(numbers)
        rows = self._rows_at(places)
        intact = (places >= 0) & (self._marks[numbers] == self._marks_of(numbers, rows))
        return torch.from_numpy(rows), torch.from_numpy(intact)

    def write(self, keys: Tensor, rows: Tensor) -> None:
        """Stores rows; does nothing without a shard.

        Those that are in the own shard are written to their old places, those that another process has stored well
        are left out.

        Args:
            keys: their numbers ``(B,)``, each once.
            rows: ``(B, width)`` in the layout's type.

        Raises:
            OSError: the disk is full, or fails; all rows stored before are as they were.
        """
        own = self._own
        if own is None:
            return
        self._catch_up()
        numbers, values = keys.cpu().numpy(), rows.detach().cpu().numpy()
        shards, slots = self._split(self._places_of(numbers))
        theirs = np.flatnonzero((shards >= 0) & (shards != own.number))
        if len(theirs) > 0:
            stored = theirs[self.read(torch.from_numpy(numbers[theirs]))[1].numpy()]
            numbers, values, shards, slots = (
                np.delete(a, stored, 0) for a in (numbers, values, shards, slots)
            )
        slots[shards != own.number] = -1
        slots = self._placed(own, slots)
        entries = np.empty(len(numbers), ENTRY)
        entries["key"], entries["mark"] = numbers, self._marks_of(numbers, values)
        own.write(slots, values, entries)
        self._filled += int((self._places[numbers] == 0).sum())
        self._places[numbers] = own.number * self.layout.rows + slots + 1
        self._marks[numbers] = entries["mark"]

    def close(self) -> None:
        """Brings everything to the disk and gives the shard back; a second time does nothing.

        Raises:
            OSError: the disk fails.
        """
        own, self._own = self._own, None
        with self._held:
            if own is not None:
                own.close()

    def __enter__(self) -> ViewTable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _create(self, fingerprint: Fingerprint) -> None:
        """Makes an empty table, or waits for the process that is just doing so."""
        (self.path / LOCK).touch()  # raises where nothing can be written
        deadline = time.monotonic() + _WAIT
        while not (self.path / META).exists() and time.monotonic() < deadline:
            lock = take_lock(self.path / LOCK)
            if lock is None:
                time.sleep(0.02)
                continue
            with lock:
                if not (self.path / META).exists():
                    self._empty()
                    write_json(self.path / META, _meta(fingerprint, self.layout))

    def _empty(self) -> None:
        """Removes what a crash left before there was a ``meta.json``."""
        others = sorted(p.name for p in self.path.iterdir() if not is_ours(p.name))
        if others:
            raise ValueError(
                f"teacher.table must be an empty folder or a view table, got {self.path} with {others[0]!r} in it. "
                "Choose another folder"
            )
        for path in self.path.iterdir():
            if path.name != LOCK:
                path.unlink(missing_ok=True)

    def _claimed(self, held: ExitStack) -> int | None:
        """Returns the number of a shard whose lock this process holds now, ``None`` if all are taken."""
        for number in range(MOST_SHARDS):
            lock = take_lock(lock_file(self.path, number))
            if lock is not None:
                held.enter_context(lock)
                return number
        return None

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            self._shards[number] = Shard(self.path, number, self.layout)
        return self._shards[number]

    def _catch_up(self) -> None:
        """Reads the entries that others added since the last time."""
        for number in shards_in(self.path):
            if number < MOST_SHARDS and (self._own is None or number != self._own.number):
                self._read_entries(self._shard(number))

    def _read_entries(self, shard: Shard) -> None:
        first = shard.count
        while len(entries := shard.unread(_PIECE)) > 0:
            known = (entries["key"] >= 0) & (entries["key"] < self.layout.rows)  # not so if a bit was flipped
            places = shard.number * self.layout.rows + first + np.flatnonzero(known)
            self._take_in(entries["key"][known], places, entries["mark"][known])
            first = shard.count

    def _take_in(self, keys: NDArray[np.int64], places: NDArray[np.int64], marks: NDArray[np.uint32]) -> None:
        """Notes where rows are; a second copy of one is believed if it fits its mark."""
        new = self._places[keys] == 0
        self._places[keys[new]], self._marks[keys[new]] = places[new] + 1, marks[new]
        noted = self._places[keys] == places + 1
        self._filled += int((new & noted).sum())
        copies = np.flatnonzero(~noted)
        for first in range(0, len(copies), 2**14):
            k = copies[first : first + 2**14]
            k = k[marks[k] == self._marks_of(keys[k], self._rows_at(places[k]))]
            self._places[keys[k]], self._marks[keys[k]] = places[k] + 1, marks[k]

    def _placed(self, own: Shard, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns slots with new ones of the own shard for those that are -1."""
        new = np.flatnonzero(slots < 0)
        added, rest = np.split(new, [self.layout.rows - own.count])
        slots[added] = own.count + np.arange(len(added))
        if (
            len(rest) > 0
        ):  # all slots are taken, some by rows whose keys were damaged, or that others hold, too
            shards, taken = self._split(self._places_of(np.arange(self.layout.rows)))
            slots[rest] = np.setdiff1d(np.arange(own.count), taken[shards == own.number])[: len(rest)]
        return slots

    def _places_of(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns where rows are, -1 for those that are absent."""
        return self._places[keys].astype(np.int64) - 1

    def _split(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns shards and slots; an absent row is in shard -1."""
        return places // self.layout.rows, places % self.layout.rows

    def _rows_at(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Returns a copy of the rows ``(B, width)`` in some places, zeros for -1."""
        shards, slots = self._split(places)
        numbers = np.unique(shards)
        if len(numbers) == 1 and numbers[0] >= 0:
            return self._shards[int(numbers[0])].rows(slots)
        rows = np.zeros((len(places), self.layout.width), NUMPY[self.layout.dtype])
        for number in numbers[numbers >= 0]:
            here = np.flatnonzero(shards == number)
            rows[here] = self._shards[int(number)].rows(slots[here])
        return rows


def is_ours(name: str) -> bool:
    """Returns whether a file may be part of a view table, by its name; those without a number are format 1's."""
    return _OURS.fullmatch(name) is not None


def lock_file(folder: Path, number: int) -> Path:
    """Returns what the owner of a shard holds."""
    return folder / f"{LOCK}-{number}"


def read_meta(path: Path, *, of_any_format: bool = False) -> dict[str, Any]:
    """Returns what a table says of itself.

    Raises:
        ValueError: there is no table, or it is of another format (unless that does not matter).
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT and not of_any_format:
            raise ValueError(
                f"view table {path} must have format {FORMAT} (several writers), got {meta['format']}. "
                "Remove it (understudy table remove) and fill it anew"
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


def _meta(fingerprint: Fingerprint, layout: Layout) -> dict[str, Any]:
    sizes = {"images": layout.images, "views": layout.views, "row_bytes": layout.row_bytes}
    return {"format": FORMAT, **sizes, "parts": dict(fingerprint.parts)}


def _identity(path: Path) -> tuple[int, int] | None:
    """Returns what tells a table from another one that was made in its place."""
    try:
        meta = os.stat(path / META)
    except FileNotFoundError:
        return None
    return meta.st_ino, meta.st_mtime_ns
