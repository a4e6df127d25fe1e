"""Runs in which one process alone sees a loss that is not finite: `divergence.py FOLDER`."""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import runs
import torch

import understudy as us
from understudy.engine import loop
from understudy.engine.distributed import Ranks
from understudy.engine.launch import join
from understudy.methods.dhkd import DHKD


@contextmanager
def spoiled(rank):
    """DHKD's loss is NaN on one process in step 3 of epoch 2, as long as the learning rate is the first."""
    step, loss, bad = loop._forward_backward, DHKD.loss, [False]

    def noted(job, batch, *rest):
        bad[0] = (job.epoch, job.step, job.watch.lr_scale, Ranks().rank) == (1, 2, 1.0, rank)
        step(job, batch, *rest)

    loop._forward_backward = noted
    DHKD.loss = lambda *args: loss(*args) * (float("nan") if bad[0] else 1.0)
    try:
        yield
    finally:
        loop._forward_backward, DHKD.loss = step, loss


def main(folder):
    join(torch.device("cpu"))
    found = {}
    for policy in ("skip", "rewind"):
        with spoiled(Ranks().world - 1):
            config = runs.config(folder / f"{policy}-{Ranks().world}", **{"train.divergence": policy})
            run = us.distill(config, quiet=True)
        found[policy] = {"weights": runs.digest(run.student), "divergence": run.metrics["divergence"]}
    (folder / f"found-{Ranks().world}-{Ranks().rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # gloo's threads may abort an interpreter that ends by itself
