"""Checkpoints: everything a run needs to go on exactly, written so that a crash never costs the last good one."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch

from understudy.files import write_atomic
from understudy.words import first_line

FORMAT = 1
_MARK = b"\nunderstudy sha256 "
_TRAILER = len(_MARK) + 64
"""A checkpoint is a torch archive, and behind it the digest of all its bytes."""
_PIECE = 2**20  # bytes read at once


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` (tensors, numbers, strings, lists, dictionaries); the one before is kept beside it.

    The new file is written under another name, read back and compared with its digest; only then does it take the
    name, and the one that had it becomes ``previous.pt``. A crash at any moment leaves at least one whole checkpoint.

    Raises:
        OSError: the disk is full, or does not give back what was written; the last good checkpoint is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f"{path.stem}.new.pt")
    digest = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        sink = _Sink(file, digest)
        torch.save({"format": FORMAT, **state}, sink)  # pyright: ignore[reportArgumentType] (it only writes)
        sink.finish()
        file.write(_MARK + digest.hexdigest().encode())

    write_atomic(staged, write)
    if not _holds(staged, digest.hexdigest()):
        staged.unlink()
        raise OSError(f"the disk gives back other bytes than were written to {staged}; {path} is untouched")
    if path.exists():
        os.replace(path, previous_of(path))
    os.replace(staged, path)


class _Sink:
    """Writes through to a file and digests what passes, so that no second copy of a state is in memory.

    An error waits for :meth:`finish`: torch's archive writer is not made for one, and could end the process.
    """

    def __init__(self, file: BinaryIO, digest: hashlib._Hash) -> None:
        self._file, self._digest = file, digest
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Takes the next bytes."""
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        self._digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Does nothing: the whole file is flushed at its end."""

    def finish(self) -> None:
        """Raises what went wrong."""
        if self._error is not None:
            raise self._error


def _holds(path: Path, expected: str) -> bool:
    """Returns whether a file gives back what was written: bytes of this digest, and it behind them."""
    digest, left = hashlib.sha256(), path.stat().st_size - _TRAILER
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
        return left == 0 and digest.hexdigest() == expected and file.read() == _MARK + expected.encode()


def previous_of(path: Path) -> Path:
    """Returns where the checkpoint before ``path`` is kept."""
    return path.with_name("previous.pt" if path.stem == "last" else f"{path.stem}.previous.pt")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns a saved state, tensors on the CPU; nothing in the file is executed.

    A crash between the two renames of :func:`save_checkpoint` leaves no file of this name, but the one before: it is
    then taken.

    Raises:
        ValueError: there is no checkpoint, or it is damaged or of another format; the message says whether the one
            before it is whole.
    """
    if not path.exists() and previous_of(path).exists():
        path = previous_of(path)
    try:
        return _read(path)
    except _DamagedError as error:
        raise ValueError(f"checkpoint {path} must be whole, got {error}. {_advice(path)}") from None


class _DamagedError(Exception):
    """The file is not what was written."""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _DamagedError(f"a file that cannot be read ({error.strerror})") from None
    archive, trailer = memoryview(content)[:-_TRAILER], content[-_TRAILER:]
    if not trailer.startswith(_MARK):
        raise _DamagedError(f"{len(content)} bytes without the digest at their end")
    if trailer != _MARK + hashlib.sha256(archive).hexdigest().encode():
        raise _DamagedError("bytes that do not fit their digest")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        raise _DamagedError(f"no torch archive of plain data ({first_line(error)})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        got = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise _DamagedError(f"format {got} instead of {FORMAT}; use the version that wrote it")
    return state


def _advice(path: Path) -> str:
    before = previous_of(path)
    if path != before and before.exists():
        try:
            state = _read(before)
        except _DamagedError:
            return "The one before it is damaged too; start the run anew"
        if "epoch" in state:
            return (
                f"The one before it, after epoch {state['epoch']}, is whole: understudy resume "
                f"{path.parent.parent} --previous"
            )
    return "Start the run anew"
