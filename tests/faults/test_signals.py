"""INT, TERM and USR1 leave a checkpoint and status 130; a long run neither grows nor keeps files open."""

import gc
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

import understudy as us
from understudy.engine import loop
from understudy.files import read_json_lines


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_leaves_a_checkpoint_of_that_step_and_status_130(
    digits_config, cli, table, tmp_path, monkeypatch, name
):
    path, step = tmp_path / "c.yaml", loop._forward_backward
    path.write_text(us.load_config(digits_config).yaml())
    whole, before = (
        us.distill(digits_config, quiet=True, output=str(tmp_path / "whole")),
        signal.getsignal(getattr(signal, name)),
    )

    def signalled(job, *rest):
        step(job, *rest)
        if (job.epoch, job.step) == (1, 2):
            os.kill(os.getpid(), getattr(signal, name))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_forward_backward", signalled)
        assert cli("distill", path).status == 130
    assert signal.getsignal(getattr(signal, name)) == before
    run = tmp_path / "run"
    state = us.engine.checkpoint.load_checkpoint(run / "checkpoints" / "last.pt")
    assert (state["epoch"], state["step"]) == (1, 3)
    assert len(read_json_lines(run / "metrics.jsonl")) == 1  # flushed
    assert "interrupted in epoch 2" in (run / "train.log").read_text()
    assert cli("resume", run, "-q").status == 0
    ours, theirs = (load_file(p / "student.safetensors") for p in (run, whole.path))
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    table(name, 1, "checkpoint of that very step, exit 130, resumed to the same bits")


def resident():
    """Returns the memory of this process in MiB, without that of files, the tensors alive and the files open."""
    gc.collect()
    with open("/proc/self/statm") as file:
        _, held, of_files, *_ = map(int, file.read().split())
    pages = held - of_files
    tensors = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, tensors, len(os.listdir("/proc/self/fd"))


ENDS = (*range(46, 51), *range(196, 201))  # epochs


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_two_hundred_epochs_do_not_grow(digits_config, table, monkeypatch, policy):
    digits_config["data"] = {"name": "digits", "limit": 64}
    digits_config["losses"].append({"name": "crd", "weight": 0.1, "negatives": 16})
    seen, save = {}, loop.Job.save

    def noted(job):
        save(job)
        if job.epoch in ENDS:
            seen[job.epoch] = resident()

    monkeypatch.setattr(loop.Job, "save", noted)
    us.distill(digits_config, quiet=True, **{"train.epochs": 200, "train.divergence": policy})
    memory, tensors, files = zip(*(seen[epoch] for epoch in ENDS), strict=True)
    assert max(tensors) == min(tensors)
    assert max(files) == min(files)
    assert min(memory[5:]) - min(memory[:5]) < 8, memory
    table(
        f"200 epochs of a tiny set, policy {policy}",
        1,
        "no more tensors or files, less than 8 MiB more memory",
    )
