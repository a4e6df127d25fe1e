"""Whole jobs on two processes: `runs.py FOLDER`; writes what each process found to FOLDER/found-RANK.json."""

import hashlib
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

import understudy as us
from understudy import build
from understudy.engine import loop
from understudy.engine.distributed import Ranks
from understudy.engine.launch import join
from understudy.methods.dhkd import DHKD

PARTS = {"train.accumulate": 2, "train.epochs": 1, "train.batch_size": 36}
"""Two parts a step; those of the last batch hold three images, too few to divide."""


def config(output, **changes):
    """Five steps an epoch, the last of two images: too few to divide. No dropout, which knows the process."""
    return us.load_config(
        {
            "seed": 3,
            "data": {"name": "digits", "limit": 150, "val": 0.1},
            "teacher": {"model": "cnn_small"},
            "student": {"model": "cnn_tiny"},
            "losses": [
                {"name": "ce"},
                {"name": "dhkd", "head": "linear", "weight": {"value": 0.5, "warmup_epochs": 2}},
                {"name": "rkd", "weight": 0.01},
            ],
            "gradients": {"align": "backbone"},
            "train": {"epochs": 3, "batch_size": 37, "ema": 0.9, "threads": 1, "device": "cpu"},
            "output": str(output),
        },
        changes,
    )


@contextmanager
def watched(stop_after=None, rank=0):
    """Lists the images of every step, of all processes; asks for a stop on one process after some steps."""
    ranks, step, seen = Ranks(), loop._forward_backward, []

    def noted(job, batch, *rest):
        step(job, batch, *rest)
        counts = ranks.share(batch.index).counts
        seen.append(ranks.gather(batch.index, counts).tolist())
        if len(seen) == stop_after and ranks.rank == rank:
            job.stop.set()

    loop._forward_backward = noted
    try:
        yield seen
    finally:
        loop._forward_backward = step


def digest(module):
    state = b"".join(tensor.numpy().tobytes() for tensor in module.state_dict().values())
    return hashlib.sha256(state).hexdigest()


def stopped(output, after, rank=0):
    """Begins a run that is stopped; returns the images it saw."""
    with watched(after, rank) as seen:
        try:
            us.distill(config(output), quiet=True)
        except us.InterruptedRunError:
            return seen
    raise AssertionError("the run was not stopped")


def error_of(function):
    try:
        function()
    except ValueError as error:
        return [type(error).__name__, str(error)]
    return None


def main(folder):
    join(torch.device("cpu"))
    ranks, found = Ranks(), {}
    with watched() as found["order"]:
        found["whole"] = digest(us.distill(config(folder / "whole"), quiet=True).student)
    stopped(folder / "stopped", 7, rank=1)
    found["stopped"] = digest(us.resume(folder / "stopped", quiet=True).student)
    found["before"] = stopped(folder / "two-to-one", 7)
    with watched() as found["after"]:
        us.distill(config(folder / "one-to-two"), quiet=True)
    run = us.distill(config(folder / "own-norms", **{"train.sync_bn": False}), quiet=True)
    found["own norms"] = digest(run.student)
    us.distill(config(folder / "parts", **PARTS), quiet=True)
    found["measured"] = us.evaluate(folder / "whole", quiet=True)

    loss = DHKD.loss
    if ranks.rank == 1:
        DHKD.loss = lambda *args: loss(*args) * float("nan")
    found["diverged"] = error_of(lambda: us.distill(config(folder / "diverged"), quiet=True))
    DHKD.loss = loss

    if ranks.rank == 1:
        build.read_data = lambda config: (_ for _ in ()).throw(ValueError("no images on this machine"))
    found["no data"] = error_of(lambda: us.distill(config(folder / "no-data"), quiet=True))
    found["finished"] = error_of(lambda: us.distill(config(folder / "whole"), quiet=True))
    (folder / f"found-{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # gloo's threads may abort an interpreter that ends by itself
