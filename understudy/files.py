"""Files that are whole or not there: atomic writes, appended lines, and the lock on a run folder."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

PATIENCE = 3.0
"""Seconds to wait for the lock of a run folder."""
_TEMPORARY = re.compile(r"\..+\.(\d{1,9})\.tmp")  # and the process that writes it


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that a crash at any moment leaves the old content or the new, never a mixture.

    The content goes to a neighbour first, is flushed to the disk, and takes the name in one step (write, fsync,
    rename).

    Raises:
        OSError: the disk is full or the folder not writable; the old file is untouched and no neighbour is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself must survive a power cut
    finally:
        os.close(folder)


def sweep(folder: Path) -> None:
    """Removes what :func:`write_atomic` left half written in a folder, in processes that were killed."""
    for path in folder.glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _is_alive(int(match[1])):
            path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Returns whether a file is one that :func:`write_atomic` has not finished, by its name."""
    return _TEMPORARY.fullmatch(name) is not None


def write_text(path: Path, text: str) -> None:
    """Writes text (UTF-8) atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; numbers that JSON does not know (NaN, infinity) become null."""
    write_text(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def json_line(value: dict[str, Any]) -> str:
    """Returns one line of strict JSON, NaN and infinity as null."""
    return json.dumps(_plain(value), allow_nan=False)


def append_line(path: Path, line: str) -> None:
    """Appends one line and flushes it to the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a JSON-lines file up to the first line that is none, as one cut short by a crash."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict):
            break
        lines.append(value)
    return lines


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} must hold a JSON object, got something else. Restore the file, or delete it"
        )
    return value


@contextmanager
def locked(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Holds a run folder for this process; the lock dies with its owner, however it ends.

    Args:
        folder: of the run; made if it is not there.
        patience: seconds to wait for whoever holds it. The processes that decode a run's images have its lock from it,
            and end a moment after a run that was killed.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        last = time.monotonic() + patience
        while not _taken(file):
            if time.monotonic() < last:
                time.sleep(0.05)
                continue
            raise ValueError(
                f"an output folder must have one writer, got a second process on {folder}. "
                "Wait for the other run or choose another output="
            )
        yield


def _taken(file: TextIO) -> bool:
    """Returns whether the lock is ours now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(process: int) -> bool:
    try:
        with suppress(PermissionError):  # somebody else's
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
