"""Whether this process was started as one of several (torchrun, accelerate, SLURM), and how it finds the others."""

from __future__ import annotations

import atexit
import os
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from understudy.widest import has_float64

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: what the first one prepares alone may take long, and a process that dies
is noticed at once by the launcher."""


@dataclass(frozen=True, slots=True)
class Launch:
    """This process among those that were started together."""

    rank: int
    world: int
    local_rank: int
    """Number on its machine; it takes the GPU of that number."""
    address: str | None
    """``tcp://HOST:PORT`` of the first process; ``None`` where torch's own environment variables say it."""


def launched(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Returns what the launcher says in the environment; ``None`` for a process on its own.

    torchrun's variables come first (accelerate sets the same); then those of a SLURM step. A batch script itself runs
    once, whatever ``SLURM_NTASKS`` says: only ``srun`` starts a step (or ``MASTER_ADDR`` tells that it is meant).

    Example:
        >>> from understudy.engine.launch import launched
        >>> launched({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
        Launch(rank=1, world=2, local_rank=1, address=None)
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        launch = Launch(
            int(environ["RANK"]), int(environ["WORLD_SIZE"]), int(environ.get("LOCAL_RANK", "0")), None
        )
    elif "SLURM_PROCID" in environ and ("SLURM_STEP_NODELIST" in environ or "MASTER_ADDR" in environ):
        world = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS", "1")
        local_rank = int(environ.get("SLURM_LOCALID", "0"))
        launch = Launch(int(environ["SLURM_PROCID"]), int(world), local_rank, _slurm_address(environ))
    else:
        return None
    return launch if launch.world > 1 else None


def join(device: torch.device) -> torch.device:
    """Joins the processes that were started together, once; returns this process's own device.

    Of a machine's GPUs each process takes one. A process on its own, or one whose group exists already, changes
    nothing but that. The group is left when the process ends.

    Args:
        device: what the job runs on; its number does not count among several processes.

    Raises:
        ValueError: the launcher does not say where the first process is.
    """
    launch = launched()
    if launch is None or not dist.is_available():
        return device
    if not has_float64(device):
        raise ValueError(
            f"train.device must be cpu or cuda for several processes, got {device.type}. Start one, or set train.device"
        )
    on_gpu = device.type == "cuda"
    if on_gpu:
        device = torch.device("cuda", launch.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=launch.address,
            store=_store() if launch.address is None else None,
            rank=launch.rank,
            world_size=launch.world,
            timeout=PATIENCE,
        )
        atexit.register(_leave)
    return device


def _store() -> Any:
    """Returns torch's store through which the processes find each other, by torch's environment variables.

    torchrun keeps one store over its restarts (PyTorch issue 135712), in which the addresses of the processes that
    died still lie. So the processes of this start first agree on a name for themselves: each shows a number that
    nobody ever had, and waits until the first process, which is alive, answers that very number with its own.
    """
    from torch.distributed.distributed_c10d import PrefixStore  # here: a torch without processes has neither
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store
    number = uuid.uuid4().hex
    if rank > 0:
        store.set(f"hello/{rank}", number)
        number = store.get(f"welcome/{number}").decode()  # waits
        store.add(f"{number}/here", 1)
        return PrefixStore(number, store)
    while store.add(f"{number}/here", 0) < world - 1:
        for other in range(1, world):
            if store.check([f"hello/{other}"]):
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", number)
        time.sleep(0.02)
    return PrefixStore(number, store)


def forsake() -> None:
    """Lets this process end without waiting for the others: it failed, and NCCL's would wait for work that hangs."""
    if dist.is_available() and dist.is_initialized() and "nccl" in str(dist.get_backend_config()):
        atexit.unregister(_leave)


def lost(error: BaseException) -> str | None:
    """Returns one line for the error torch raises when another process is gone, or none is found; else ``None``."""
    words = str(error)
    if type(error).__name__ in (
        "DistNetworkError",
        "DistStoreError",
    ):  # of the store; a torch without it has neither
        reason = " ".join(words.split()).rstrip(".")
        return (
            f"all processes must find each other at the start, got: {reason}. See what the others say, and whether "
            "MASTER_ADDR and MASTER_PORT are the same for all and free (torchrun chooses them)"
        )
    if not isinstance(error, RuntimeError) or "peer" not in words or "onnection" not in words:
        return None
    reason = words.splitlines()[0].rpartition("] ")[2].partition(". ")[0]
    return f"all processes must live to the end, got a lost connection ({reason}). See what the others say"


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()  # or gloo's threads may abort the interpreter while it ends


def _slurm_address(environ: Mapping[str, str]) -> str:
    """Returns where the first process of a SLURM step listens: on its first node, at a port of the step's own."""
    host = environ.get("MASTER_ADDR") or _first_host(environ["SLURM_STEP_NODELIST"])
    step = int(environ.get("SLURM_JOB_ID", "0")) + 97 * int(environ.get("SLURM_STEP_ID", "0"))
    return f"tcp://{host}:{environ.get('MASTER_PORT') or 20_000 + step % 20_000}"


def _first_host(nodes: str) -> str:
    """Returns the first name of a SLURM list: ``gpu[03-06,9],n1`` begins with ``gpu03``."""
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", found[0]) if found else nodes
