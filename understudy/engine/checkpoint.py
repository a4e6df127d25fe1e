"""Checkpoints: everything a run needs to go on exactly, written so that a crash never costs the last good one."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from understudy.files import write_atomic

FORMAT = 1
_MARK = b"\nunderstudy sha256 "
_TRAILER = len(_MARK) + 64
"""A checkpoint is a torch archive, and behind it the digest of all its bytes."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` (tensors, numbers, strings, lists, dictionaries); the one before is kept beside it.

    The new file is written under another name, read back and compared with its digest; only then does it take the
    name, and the one that had it becomes ``previous.pt``. A crash at any moment leaves at least one whole checkpoint.

    Raises:
        OSError: the disk is full, or does not give back what was written; the last good checkpoint is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    content += _MARK + hashlib.sha256(content).hexdigest().encode()
    staged = path.with_name(f"{path.stem}.new.pt")
    write_atomic(staged, lambda file: file.write(content))
    if staged.read_bytes() != content:
        staged.unlink()
        raise OSError(f"the disk gives back other bytes than were written to {staged}; {path} is untouched")
    if path.exists():
        os.replace(path, previous_of(path))
    os.replace(staged, path)


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
    archive, trailer = content[:-_TRAILER], content[-_TRAILER:]
    if not trailer.startswith(_MARK):
        raise _DamagedError(f"{len(content)} bytes without the digest at their end")
    if trailer != _MARK + hashlib.sha256(archive).hexdigest().encode():
        raise _DamagedError("bytes that do not fit their digest")
    try:
        state = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        raise _DamagedError(f"no torch archive of plain data ({str(error).splitlines()[0][:120]})") from None
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
