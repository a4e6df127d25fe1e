"""Size and latency of teacher, student and quantised student, side by side under one runtime."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from understudy.models.onnx import OnnxNetwork

BATCHES = (1, 32)
"""Images at once: the two ends of serving."""
THREADS = 1
"""One core: what a request gets on a busy server, and the figure that least depends on the machine."""
_ROUNDS = range(5, 101)  # at least, and at most
_SECONDS = 3.0  # a batch size; a slow teacher gets fewer rounds


@dataclass(frozen=True, slots=True)
class Entry:
    """What is measured: an ONNX file and what is known of it."""

    model: bytes
    parameters: int
    accuracy: float | None
    """First score on the test images (top-1, mIoU) in percent, if there are any."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    parameters: int
    bytes: int
    """Of the ONNX file."""
    score: float | None
    """On the test images, in percent."""
    ms: dict[str, float]
    """Batch size -> median milliseconds for the whole batch."""


def measure(entries: Mapping[str, Entry], channels: int, image_size: tuple[int, int]) -> list[Row]:
    """Returns the rows in the order of ``entries``.

    All networks run in onnxruntime on the CPU, on :data:`THREADS` thread, and take turns, so that a machine that slows
    down slows all of them. The first rounds are not counted.

    Args:
        entries: by name.
        channels: of the images.
        image_size: height and width.
    """
    networks = {name: OnnxNetwork(entry.model, name, THREADS) for name, entry in entries.items()}
    ms: dict[str, dict[str, float]] = {name: {} for name in entries}
    for batch in BATCHES:
        images = torch.rand(batch, channels, *image_size, generator=torch.Generator().manual_seed(0))
        for name, times in _take_turns(networks, images).items():
            ms[name][str(batch)] = 1000 * statistics.median(times)
    return [
        Row(name, entry.parameters, len(entry.model), entry.accuracy, ms[name])
        for name, entry in entries.items()
    ]


def _take_turns(networks: Mapping[str, OnnxNetwork], images: torch.Tensor) -> dict[str, list[float]]:
    """Returns the seconds of every counted call."""
    fed, times = images.numpy(), {name: [] for name in networks}
    for _ in range(2):
        for network in networks.values():
            network.session.run(None, {network.input: fed})
    start = time.perf_counter()
    for done in range(_ROUNDS.stop - 1):
        if done >= _ROUNDS.start and time.perf_counter() - start > _SECONDS:
            break
        for name, network in networks.items():
            before = time.perf_counter()
            network.session.run(None, {network.input: fed})
            times[name].append(time.perf_counter() - before)
    return times


def as_json(rows: list[Row], score: str) -> dict[str, Any]:
    """Returns the table for ``export.json``; ``score`` is the name under which it has the scores (``acc1``)."""
    body = [{f"test_{score}" if k == "score" else k: v for k, v in asdict(row).items()} for row in rows]
    return {"runtime": "onnxruntime, CPU", "threads": THREADS, "rows": body}


def cells(rows: list[Row], title: str) -> Iterator[tuple[str, ...]]:
    """Yields the table as text, the header first; ``title`` says what the scores are."""
    yield ("", "parameters", "ONNX file", f"test {title}", *(f"batch {batch}" for batch in BATCHES))
    for row in rows:
        accuracy = "" if row.score is None else f"{row.score:.2f}%"
        times = (f"{row.ms[str(batch)]:.2f} ms" for batch in BATCHES)
        yield (row.name, f"{row.parameters:,}", f"{row.bytes / 1e6:.2f} MB", accuracy, *times)


def lines(rows: list[Row], title: str) -> list[str]:
    """Returns the table for a terminal."""
    table = list(cells(rows, title))
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
