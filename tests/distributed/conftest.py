"""Starts the processes that these tests are about."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ports import free_port

WORKERS = Path(__file__).parent / "workers"
collect_ignore_glob = ["workers/*"]  # scripts, run as processes of their own


@pytest.fixture(scope="session")
def worker():
    """A function that imports a worker script into this process."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"worker_{name}", WORKERS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(WORKERS)  # where a script finds the others
            spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def processes():
    """A function that runs a worker script as one of ``world`` processes and returns what each printed."""

    def run(script, *arguments, world, timeout=1500):
        shared = os.environ | {
            "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        command = [sys.executable, "-W", "error", str(WORKERS / script), *map(str, arguments)]
        started = [
            subprocess.Popen(
                command,
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            said = [process.communicate(timeout=timeout)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        for rank, process in enumerate(started):
            assert process.returncode == 0, f"process {rank} of {world}:\n{said[rank]}"
        return said

    return run


@pytest.fixture(scope="module")
def steps_of(processes, tmp_path_factory):
    """A function that returns what a worker script writes as one of ``world`` processes."""

    def run(script, *arguments, world):
        path = tmp_path_factory.mktemp("steps") / "found.pt"
        processes(script, path, *arguments, world=world)
        return torch.load(path)

    return run


@pytest.fixture(scope="session")
def difference():
    """A function that returns the largest difference of any tensor, as a share of its own largest entry.

    Entries a million times smaller than the step's largest are rounding themselves (biases in front of batch norms).
    """

    def largest(ours, theirs):
        assert ours.keys() == theirs.keys()
        sizes = {name: float(value.double().abs().max()) for name, value in ours.items() if value.numel()}
        floor = 1e-6 * max(sizes.values())
        return max(
            float((ours[n].double() - theirs[n].double()).abs().max()) / max(size, floor)
            for n, size in sizes.items()
        )

    return largest
