"""The command line under torchrun: one machine or two, interrupted, killed and restarted, the same bits."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from ports import free_port
from safetensors.torch import load_file

from understudy.files import read_json_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="127.0.0.2 is this machine on Linux only"
    ),
]


def launch(config, output, *options):
    """Starts `understudy distill` under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "understudy", "distill", config]
    return subprocess.Popen(
        [*command, f"output={output}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers_of(process):
    lines = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    return [int(line.split()[0]) for line in lines.splitlines() if int(line.split()[1]) == process.pid]


def wait_for_epochs(output, number, process):
    deadline = time.monotonic() + 540
    while len(read_json_lines(output / "metrics.jsonl")) < number:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(process):
    said = process.communicate(timeout=1500)[0]
    return process.returncode, said


@pytest.fixture(scope="module")
def config(worker, tmp_path_factory):
    jobs, folder = worker("runs"), tmp_path_factory.mktemp("torchrun")
    path = folder / "config.yaml"
    path.write_text(jobs.config(folder / "unused", **{"train.epochs": 40}).yaml())
    return str(path)


@pytest.fixture(scope="module")
def agents(config, tmp_path_factory):
    """The folder and the words of a run on two agents, as on two machines, with one process each."""
    output = tmp_path_factory.mktemp("agents") / "run"
    endpoint = f"127.0.0.1:{free_port()}"
    meeting = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        "--rdzv-id=one",
        f"--rdzv-endpoint={endpoint}",
    ]
    both = [launch(config, output, *meeting, f"--local-addr=127.0.0.{i}") for i in (1, 2)]
    try:
        return output, [ended(process) for process in both]
    finally:
        for process in both:
            process.kill()


def test_two_agents_train_one_model(agents):
    output, words = agents
    assert [code for code, _ in words] == [0, 0], words
    assert sum("2 processes share each batch" in said for _, said in words) == 1
    assert (output / "student.safetensors").exists()
    assert len(read_json_lines(output / "metrics.jsonl")) == 40


def test_interrupted_then_killed_the_same_command_ends_in_the_same_bits(config, agents, tmp_path):
    output, options = tmp_path / "run", ("--standalone", "--nproc-per-node=2", "--max-restarts=1")
    first = launch(config, output, *options)
    try:
        wait_for_epochs(output, 2, first)
        first.send_signal(signal.SIGINT)
        code, said = ended(first)
    finally:
        first.kill()
    assert code != 0
    assert said.count("interrupted in epoch") == 1
    assert not (output / "student.safetensors").exists()

    second = launch(config, output, *options)
    try:
        done = len(read_json_lines(output / "metrics.jsonl"))
        wait_for_epochs(output, done + 2, second)
        os.kill(max(workers_of(second)), signal.SIGKILL)
        code, said = ended(second)
    finally:
        second.kill()
    assert code == 0, said
    assert said.count("resuming after epoch") == 2  # by the command given again, and by torchrun's restart
    assert "lost connection" in said  # one line from the process that lived
    ours, theirs = load_file(output / "student.safetensors"), load_file(agents[0] / "student.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
