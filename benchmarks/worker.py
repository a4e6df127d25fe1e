"""One arm in a process of its own: a line of JSON in, a line of JSON out.

The first line is a setting with the steps of the first block, ``{"setting": {...}, "steps": 3}``; every later one asks
for another block, ``{"steps": 20}``. An answer says what the block took. The end of the input ends the process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any, TextIO

import torch
from arms import ARMS
from arms.setting import Setting
from torch import Tensor


class Turnstile:
    """Lets an arm through for as many steps as were asked for, and measures them."""

    def __init__(self, steps: int, requests: TextIO, replies: TextIO) -> None:
        self.requests, self.replies = requests, replies
        self._start(steps)

    def __call__(self, loss: Tensor, images: int) -> None:
        """Counts one step; at the end of a block answers, and waits for the next."""
        self._losses.append(loss)
        self._images += images
        if len(self._losses) == self._steps:
            self._answer()
            line = self.requests.readline()
            if not line:
                sys.exit()
            self._start(json.loads(line)["steps"])

    def _start(self, steps: int) -> None:
        self._steps, self._losses, self._images = steps, [], 0
        self._began = time.perf_counter(), time.process_time()

    def _answer(self) -> None:
        if self._losses[-1].is_cuda:
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        answer: dict[str, Any] = {
            "steps": self._steps,
            "images": self._images,
            "wall": wall,
            "cpu": cpu,
            "checksum": float(torch.stack(self._losses).double().sum()),
            "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts in KiB
        }
        print(json.dumps(answer), file=self.replies, flush=True)


def main() -> None:
    """Runs the arm of the first line until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not come between the answers
    first = json.loads(sys.stdin.readline())
    setting = Setting(**first["setting"])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    ARMS[setting.arm](setting, Turnstile(first["steps"], sys.stdin, replies))


if __name__ == "__main__":
    main()
