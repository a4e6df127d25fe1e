"""The teachers' view tables outside training: fill them ahead, look at them, check them, remove them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.build import augmentation, build, process
from understudy.config import AUTO, load_config
from understudy.engine.console import Console
from understudy.engine.distributed import Ranks
from understudy.engine.loop import InterruptedRunError, stopped_by_signals
from understudy.guidance import (
    MEMORY,
    OFF,
    Guidance,
    asked_in_step,
    guide,
    open_table,
    settle_precision,
    tables_folder,
)
from understudy.run import Source
from understudy.teacher import upkeep
from understudy.teacher.auto import table_path


def fill(source: Source, *, quiet: bool = False, **overrides: Any) -> int:
    """Computes the teachers' answers to all views of all training images, ahead of training.

    What is there already stays, so this goes on where it was stopped; a run of the config reads it. Started several
    times at once, the processes share the work.

    Args:
        source: a YAML file, a mapping, or a config, as for :func:`understudy.distill`.
        quiet: print nothing.
        overrides: dotted keys.

    Returns:
        how many answers this process computed.

    Raises:
        ValueError: the config is wrong or keeps no table, or the table is another teacher's, or cannot be written.
        InterruptedRunError: a signal asked for a stop; what is computed is kept.
    """
    stop, console, computed = threading.Event(), Console(quiet=quiet), 0
    with stopped_by_signals(stop):
        for guidance, path in _tables(source, overrides):
            began = time.perf_counter()
            with open_table(guidance, path) as table:
                say = _progress(console, guidance.blocks.size)
                count = upkeep.fill(table, guidance.blocks, progress=say, stop=stop.is_set)
                took = time.perf_counter() - began
                share = table.filled / table.layout.rows
                console.say(
                    f"{path}: {count:,} answers computed in {took:.1f} s; {share:.1%} of {table.layout.rows:,}"
                )
            computed += count
            if stop.is_set():
                console.say("interrupted; the same command goes on")
                raise InterruptedRunError
    return computed


def info(source: Source, *, quiet: bool = False, **overrides: Any) -> list[upkeep.TableInfo]:
    """Returns what the tables of a config hold; they may be in use.

    Raises:
        ValueError: the config is wrong or keeps no table, or there is none yet.
    """
    console, found = Console(quiet=quiet), []
    for _, path in _tables(source, overrides):
        seen = upkeep.info(path)
        found.append(seen)
        console.say(f"{path}{f' (in use: {seen.writers} may write)' if seen.in_use else ''}")
        console.say(f"  {seen.filled:,} of {seen.images:,} images × {seen.views} views ({seen.share:.1%})")
        console.say(
            f"  {seen.bytes_used / 2**20:,.1f} MiB on the disk, {seen.bytes_full / 2**20:,.1f} MiB when full"
        )
        for name, value in seen.parts.items():
            console.say(f"  {name:<14} {value}")
    return found


def verify(source: Source, *, quiet: bool = False, **overrides: Any) -> list[upkeep.Verification]:
    """Compares all rows of the tables with their marks, and a thousand of each with the teacher.

    Raises:
        ValueError: the config is wrong or keeps no table, there is none yet, or one of them is not sound.
    """
    console, found, wrong = Console(quiet=quiet), [], []
    for guidance, path in _tables(source, overrides):
        upkeep.info(path)  # there must be a table
        with open_table(guidance, path) as table:
            seen = upkeep.verify(table, guidance.blocks)
        found.append(seen)
        line = (
            f"{path}: {'sound' if seen.sound else 'not sound'}; {seen.filled:,} rows, {seen.damaged:,} damaged; "
            f"{seen.recomputed:,} computed again, {seen.wrong:,} wrong, off by {seen.worst:.1g} at most"
        )
        console.say(line)
        if not seen.sound:
            wrong.append(line)
    if wrong:
        raise ValueError(
            f"tables must hold what their teachers say, got {'; '.join(wrong)}. Damaged rows are computed again when "
            "they are needed; a table with wrong ones must go: understudy table remove"
        )
    return found


def remove(source: Source, *, quiet: bool = False, **overrides: Any) -> None:
    """Deletes the tables of a config, and nothing else that lies there.

    Raises:
        ValueError: the config is wrong or keeps no table, there is none, or a process may write to it.
    """
    console = Console(quiet=quiet)
    for _, path in _tables(source, overrides):
        upkeep.remove(path)
        console.say(f"{path} removed")


def _tables(source: Source, overrides: dict[str, Any]) -> Iterator[tuple[Guidance, Path]]:
    """Yields every teacher of a config that answers ahead, and where its table is or will be."""
    config = load_config(source, overrides)
    if not config.guides:
        raise ValueError("a table must have a teacher, got none. Add teacher: {model: ..., weights: ...}")
    with _built(config) as (built, images):
        if not augmentation(built.config.data, built.data).finite:
            raise ValueError(
                "a table must be of views that come again, got data.augment with no end of them. Set "
                "data.augment.fixed to a number of views an image"
            )
        for name, teacher in config.guides.items():
            if teacher.table in (OFF, MEMORY):
                raise ValueError(
                    f"{config.guide_key(name)}.table must be auto or a folder, got {teacher.table}. "
                    f"Set {config.guide_key(name)}.table to where the answers are kept"
                )
            guidance = guide(built, name, images)
            if guidance is None and (why := asked_in_step(built.config)) is not None:
                raise ValueError(
                    f"a table must be of views that come again, got a config where {why}. Train without filling one"
                )
            if guidance is None:
                raise ValueError(
                    f"the terms must read vectors of {config.guide_key(name)}, got terms that read maps or nothing, "
                    "which no table keeps. Train without filling one"
                )
            assert guidance.fingerprint is not None
            chosen = table_path(tables_folder(teacher, Path(config.output)), guidance.fingerprint)
            yield guidance, chosen if teacher.table == AUTO else Path(teacher.table)


@contextmanager
def _built(config: Any) -> Iterator[Any]:
    """Lends a config's teachers, as they run in training, and the training images where they run."""
    with process(config) as device:
        built = build(config, device)
        images = built.data.train.to(device)
        try:
            yield settle_precision(built, images, Ranks()), images
        finally:
            built.distiller.close()


def _progress(console: Console, block: int) -> Callable[[int, int], None]:
    """Returns what says every tenth of a table's rows."""
    said = 0

    def say(done: int, rows: int) -> None:
        nonlocal said
        if 10 * done // rows > said and rows > 100 * block:
            said = 10 * done // rows
            console.say(f"  {done:,} of {rows:,} ({done / rows:.0%})")

    return say
