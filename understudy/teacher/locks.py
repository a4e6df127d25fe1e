"""Locks on files that die with their owner, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from io import BufferedRandom
from pathlib import Path

_PAUSE = 0.01  # seconds between two tries


def take_lock(path: Path, *, shared: bool = False, wait: float = 0.0) -> BufferedRandom | None:
    """Returns a lock, held until it is closed or this process ends; ``None`` if it cannot be had.

    Args:
        path: of the file that is locked; made if it does not exist.
        shared: several may hold it, as long as nobody holds it alone.
        wait: for how many seconds to try.
    """
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    deadline = time.monotonic() + wait
    while True:
        try:
            lock = path.open("a+b")
        except OSError:  # somebody else's table, or on a disk that is read-only, or gone
            return None
        try:
            fcntl.flock(lock, mode)
        except BlockingIOError:
            lock.close()
            if time.monotonic() >= deadline:
                return None
            time.sleep(_PAUSE)
            continue
        if _is_still(lock, path):
            return lock
        lock.close()  # its file was removed meanwhile: another one stands there, or none


def is_held(path: Path) -> bool:
    """Returns whether a process holds a lock."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is_still(lock: BufferedRandom, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False
