"""What the scripts share that compare the steps of N processes with the steps of one."""

import os
import sys

import torch
from torch import nn

from understudy.engine.distributed import Ranks
from understudy.engine.launch import join


def part(columns, ranks):
    """This process's rows, as the loader cuts them."""
    size = len(columns[0])
    rows = slice(size * ranks.rank // ranks.world, size * (ranks.rank + 1) // ranks.world)
    return [column[rows] for column in columns]


def without_dropout(distiller):
    """The masks of a process's own images depend on the process; they are tested for themselves."""
    for module in distiller.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return distiller


def run(all_steps, scores=None):
    """Writes what came of every step, and what ``scores`` returns, into the file of the command line; ends the process.

    Args:
        all_steps: yields names and tensors by name, on every process the same.
        scores: given the ranks, returns what else is compared.
    """
    join(torch.device("cpu"))
    ranks, results = Ranks(), {}
    for name, values in all_steps():
        bits = ranks.exchange([value.detach().numpy().tobytes() for value in values.values()])
        assert all(others == bits[0] for others in bits), f"{name}: the processes differ"
        results[name] = {key: value.detach().clone() for key, value in values.items()}
    if scores is not None:
        results["scores"] = scores(ranks)
    if ranks.is_first:
        torch.save(results, sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort an interpreter that ends by itself
