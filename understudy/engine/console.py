"""What a run says: a progress bar on a terminal, plain lines elsewhere, and everything in `train.log`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from understudy.files import append_line


class Console:
    """Says lines, and shows how far the run is; a context manager around the part with the bar."""

    def __init__(
        self, log: Path | None = None, quiet: bool = False, prefix: str = "", bar: bool = True
    ) -> None:
        self.log = log
        self.quiet = quiet
        self.prefix, self.bar = prefix, bar
        self._rich = RichConsole(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None

    def say(self, line: str) -> None:
        """Prints one line and logs it with the time."""
        if self.log is not None:
            append_line(self.log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")
        if not self.quiet:
            self._rich.print(f"{self.prefix}{line}", markup=False)
            sys.stdout.flush()

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Shows a bar of ``total`` steps, on a terminal."""
        if self.bar and self._rich.is_terminal and not self.quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self._rich, transient=True)
            self._progress.start()
            self._progress.add_task(f"{self.prefix}{description}", total=total, completed=done)

    def advance(self) -> None:
        """Moves the bar one step."""
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
