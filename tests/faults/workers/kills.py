"""Kills processes of a run at random moments: `kills.py FOLDER NUMBER`; prints what became of each, as JSON.

This process imports everything once and forks the two processes of each run, so that a kill costs a second.
"""

import hashlib
import io
import json
import os
import random
import signal
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import understudy as us
from understudy import job as jobs
from understudy.cli import main

sys.path.insert(0, str(Path(__file__).parents[2]))
from ports import free_port

WORLD = 2


def config(output):
    """Five epochs of four steps, and every kind of state: heads, CRD's memory, moving average, held-out images."""
    return {
        "seed": 3,
        "data": {"name": "digits", "limit": 144, "val": 0.1},
        "teacher": {"model": "cnn_small"},
        "student": {"model": "cnn_tiny"},
        "losses": [{"name": "ce"}, {"name": "dhkd"}, {"name": "crd", "weight": 0.1, "negatives": 16}],
        "gradients": {"align": "backbone"},
        "train": {
            "epochs": 5,
            "batch_size": 36,
            "ema": 0.9,
            "threads": 1,
            "device": "cpu",
            "checkpoint_minutes": 1e-4,  # as good as every step: many moments are within a save
        },
        "output": str(output),
    }


def start(path):
    """Forks the processes of `understudy distill PATH`; returns their numbers."""
    port = free_port()
    return [fork(path, rank, port) for rank in range(WORLD)]


def fork(path, rank, port):
    child = os.fork()
    if child:
        return child
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    sys.argv = ["understudy", "distill", str(path), "-q"]
    said, status = io.StringIO(), 0
    jobs.write_run_report = lambda folder: folder  # a second of drawing, after all that may be lost
    try:
        with redirect_stderr(said):
            main()
    except SystemExit as end:
        status = end.code or 0
    except BaseException as error:
        said.write(f"Traceback of {error!r}")
        status = 1
    (path.parent / f"said-{rank}").write_text(said.getvalue())
    os._exit(status)


def wait(children, patience=600.0):
    """Returns the exit statuses; who has not ended by then is killed, as a launcher does with what is left."""
    statuses, deadline = {}, time.monotonic() + patience
    while len(statuses) < len(children):
        for child in children:
            ended, status = os.waitpid(child, os.WNOHANG) if child not in statuses else (0, 0)
            if ended:
                statuses[child] = os.waitstatus_to_exitcode(status)
            elif child not in statuses and time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return [statuses[child] for child in children]


def digest(folder):
    return hashlib.sha256((folder / "student.safetensors").read_bytes()).hexdigest()


def begun(children, output):
    """Waits until the processes have found each other and the run's folder exists; returns the time."""
    while not (output / "config.yaml").exists():
        assert live(children, 0.005) == 0.005, "ended before the run began"
    return time.monotonic()


def live(children, seconds):
    """Waits while a process of the run lives, ``seconds`` at most; returns for how long."""
    began = time.monotonic()
    while (lived := time.monotonic() - began) < seconds:
        # asks without reaping, so that the numbers stay the children's own
        if all(os.waitid(os.P_PID, c, os.WEXITED | os.WNOHANG | os.WNOWAIT) for c in children):
            return lived
        time.sleep(0.005)
    return seconds


def trial(folder, rng, seconds):
    """Kills one process, or both, after a random part of a run's time from its beginning.

    Returns what became of them, or the seconds that the run had taken if it ended first: a machine that others use
    is faster at one time than at another.
    """
    output = folder / "run"
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text(us.load_config(config(output)).yaml())
    whom, when = rng.choice(["first", "second", "both"]), rng.random()
    children = start(path)
    begun(children, output)
    lived = live(children, when * seconds)
    victims = {"first": children[:1], "second": children[1:], "both": children}[whom]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)  # nobody has waited for it yet, so the number is still its own
    codes = wait(children, patience=1.0)
    survivors = [(folder / f"said-{r}").read_text() for r, code in enumerate(codes) if code >= 0]
    if -signal.SIGKILL not in codes:
        assert codes == [0] * WORLD, survivors
        return lived
    if (output / "result.json").exists():
        return lived
    found = {
        "whom": whom,
        "when": round(when, 2),
        "codes": codes,
        "survivors": survivors,
        "checkpoint": (output / "checkpoints" / "last.pt").exists(),
        "resumed": wait(start(path)),
    }
    found["said"] = [(folder / f"said-{r}").read_text() for r in range(WORLD)]
    found["digest"] = digest(output) if found["resumed"] == [0] * WORLD else None
    return found


def run(folder, number):
    rng, path = random.Random(0), folder / "config.yaml"
    path.write_text(us.load_config(config(folder / "whole")).yaml())
    children = start(path)
    began = begun(children, folder / "whole")
    assert wait(children) == [0] * WORLD, (folder / "said-0").read_text()
    seconds, trials = time.monotonic() - began, []
    for attempt in range(4 * number):
        match trial(folder / str(attempt), rng, seconds):
            case float(lived):
                seconds = min(seconds, lived)
            case found:
                trials.append(found)
        if len(trials) == number:
            break
    print(json.dumps({"whole": digest(folder / "whole"), "seconds": seconds, "trials": trials}))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
