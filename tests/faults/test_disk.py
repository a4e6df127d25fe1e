"""A disk that is full during a save, and a folder that belongs to another process."""

import resource
from contextlib import contextmanager

import pytest
from safetensors.torch import load_file

import understudy as us
from understudy.engine import loop
from understudy.files import locked


@contextmanager
def full(most):
    """No file may grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def config(digits_config, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(us.load_config(digits_config).yaml())
    return path


@pytest.mark.parametrize("most", [5_000, 50_000])
def test_a_full_disk_ends_the_run_with_one_line_and_keeps_the_last_good_state(
    digits_config, cli, table, tmp_path, monkeypatch, most
):
    path, folder = config(digits_config, tmp_path), tmp_path / "run"
    whole, save = us.distill(digits_config, quiet=True, output=str(tmp_path / "whole")), loop.save_checkpoint

    def fails_late(target, state):
        if state.get("epoch") == 2:
            with full(most):
                save(target, state)
        save(target, state)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", fails_late)
        answer = cli("distill", path, "-q")
    assert answer.status == 2
    assert answer.is_one_line
    assert "File too large" in answer.said
    left = {p.name for p in (folder / "checkpoints").iterdir()}
    assert "last.pt" in left
    assert left <= {"last.pt", "previous.pt", "best.pt", "best.previous.pt"}
    assert cli("resume", folder, "-q").status == 0
    ours, theirs = (load_file(p / "student.safetensors") for p in (folder, whole.path))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    if most == 50_000:
        table("disk full during a save", 2, "exit 2, the last good state resumes to the same bits")


def test_a_second_process_on_a_folder_is_refused(digits_config, cli, table, tmp_path):
    path = config(digits_config, tmp_path)
    with locked(tmp_path / "run"):
        answer = cli("distill", path, "-q")
    assert answer.status == 2
    assert "must have one writer" in answer.said
    assert cli("distill", path, "-q", "train.epochs=1").status == 0  # the lock died with its owner
    table("a second process on one folder", 1, "refused, exit 2")
