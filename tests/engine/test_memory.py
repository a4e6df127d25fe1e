"""A job on a CPU keeps the pages that its tensors free, and gives them back when it is over."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from understudy.engine.memory import kept_pages

SCRIPT = """
import resource, sys
from pathlib import Path
import torch
from understudy.engine.memory import give_back, kept_pages

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024

def steps():
    for _ in range(10):
        torch.ones(2**20, 16)  # 64 MiB, which glibc would give back at once
        small = [torch.ones(2**20) for _ in range(8)]
        del small

def counted():
    steps()
    before = faults()
    steps()
    return faults() - before

torch.set_num_threads(1)
start, plain = resident(), counted()
with kept_pages(torch.device("cpu")):
    with kept_pages(torch.device("cpu")):  # a job within a job
        pass
    kept, within = counted(), resident()
    give_back()
    given = resident()
after = resident()
again = counted()
print(plain, kept, again, within - start, given - start, after - start)
"""


HUGE = [
    path
    for path in Path("/sys/kernel/mm/transparent_hugepage").glob("**/enabled")
    if "[always]" in path.read_text()
]
BALANCING = Path("/proc/sys/kernel/numa_balancing")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="malloc's settings are glibc's")
@pytest.mark.skipif(bool(HUGE), reason="huge pages make few faults")
@pytest.mark.skipif(
    BALANCING.exists() and BALANCING.read_text().strip() != "0",
    reason="the kernel makes faults to place pages",
)
def test_pages_are_kept_within_and_given_back_after():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, kept, again, within, given, after = map(float, done.stdout.split())
    pages = 10 * 2**26 / 4096  # of the large tensors alone
    assert plain > 0.9 * pages
    assert kept < 0.01 * pages
    assert again > 0.9 * pages
    assert within > 64  # MiB
    assert max(given, after) < within / 2


def test_other_devices_and_other_c_libraries_are_left_alone(monkeypatch):
    class Nothing:
        pass

    monkeypatch.setattr("ctypes.CDLL", lambda name: Nothing())
    for kind in ("cpu", "cuda", "mps"):
        with kept_pages(torch.device(kind)):
            pass
