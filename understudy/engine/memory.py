"""The memory of a job: the most that it took, and pages that it need not fetch anew in every step."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Starts counting anew, as far as the system lets it: on a GPU always, on a CPU under Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Returns the peak since :func:`reset_peak`: bytes of tensors on a GPU; on a CPU of this whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, others in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # numbers of glibc's malloc.h
_LARGEST = 2**31 - 1
_jobs: list[torch.device] = []  # that keep pages now: one may run within another (``train.seeds``)


@contextmanager
def kept_pages(device: torch.device) -> Iterator[None]:
    """Keeps what tensors on the CPU free within the process, for the next ones; at the end it goes back to the system.

    By default glibc returns large blocks at once, so every activation of every step is made of new pages, each of
    which costs a fault: a tenth of a step in batches of 64, a quarter in batches of 256 (resnet8x4, two cores). Other
    C libraries, and jobs on other devices, are left as they are. Afterwards the thresholds are those that glibc itself
    comes to in a process with large blocks. Within, :func:`give_back` is to be called now and then.
    """
    library = ctypes.CDLL(None)
    if device.type != "cpu" or not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _LARGEST)
    _jobs.append(device)
    try:
        yield
    finally:
        _jobs.pop()
        if not _jobs:
            library.mallopt(_MMAP_MAX, 2**16)
            library.mallopt(_MMAP_THRESHOLD, 2**25)
            library.mallopt(_TRIM_THRESHOLD, 2**26)
            library.malloc_trim(0)


def give_back() -> None:
    """Gives what :func:`kept_pages` keeps back to the system; once an epoch, or pages between lasting blocks add up."""
    if _jobs:
        ctypes.CDLL(None).malloc_trim(0)
