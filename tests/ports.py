"""Ports for processes that are started by tests."""

import os
import socket
from itertools import count

_FIRST, _EACH = 20_000, 1_000  # below those that the system gives to whoever asks for any
_NUMBERS = count(os.getpid() % _EACH)  # processes that start one after the other begin in different places


def free_port():
    """Returns the number of a free port that no other worker of these tests is given.

    One that the system chooses could be given to somebody else before the process that is told of it has started.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = _FIRST + _EACH * (worker % 10) + next(_NUMBERS) % _EACH
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
