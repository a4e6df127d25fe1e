"""On what a number was measured: without it the number means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from understudy.result import processor

ROOT = Path(__file__).parents[1]


def machine(threads: int, device: str) -> dict[str, Any]:
    """Returns processor, memory, versions, the state of the checkout, and how busy the machine was at the start."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(memory / 2**30, 1),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": metadata.version("torchvision"),
        "pillow": metadata.version("pillow"),
        "commit": _commit(),
        "load_average": round(os.getloadavg()[0], 2),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def describe(found: dict[str, Any]) -> str:
    """Returns the machine in a line."""
    place = found.get("gpu", f"{found['cpu']} ({found['isa']})")
    return (
        f"{place}, {found['cores']} cores, threads of an arm: {found['threads']}, {found['memory_gib']} GiB; "
        f"{found['system']}, Python {found['python']}, torch {found['torch']}, torchvision {found['torchvision']}, "
        f"Pillow {found['pillow']}"
    )


def _commit() -> str:
    """Returns the commit of the checkout, and whether files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    if not commit:
        return "no checkout"
    return commit + (
        " with changes" if git("status", "--porcelain", "--", "understudy", "benchmarks/*.py") else ""
    )
