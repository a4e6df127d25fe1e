"""A verb in a process of its own, as a study starts it: it ends, with a checkpoint, when its parent does."""

from __future__ import annotations

import os
import signal
import threading


def main() -> None:
    """Runs the command line; standard input is the pipe that the parent holds open as long as it lives."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from understudy.cli import main as command_line

    command_line()


def _end_with_parent() -> None:
    while os.read(0, 1):  # not sys.stdin: a thread that waits there would spoil the interpreter's exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
