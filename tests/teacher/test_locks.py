"""A lock is on the file that stands there, not on one that was removed meanwhile."""

import os

import pytest

from understudy.teacher import locks
from understudy.teacher.locks import is_held, take_lock


def test_a_lock_dies_with_its_owner_and_keeps_others_out(tmp_path):
    path = tmp_path / ".lock"
    assert not is_held(path)
    with take_lock(path):
        assert is_held(path)
        assert take_lock(path) is None
    assert not is_held(path)


@pytest.mark.parametrize("again", [False, True], ids=["gone", "another one"])
def test_a_file_that_was_removed_meanwhile_is_no_lock(tmp_path, monkeypatch, again):
    path, flock, calls = tmp_path / ".lock", locks.fcntl.flock, []

    def removed_first(file, mode):
        if not calls:
            path.unlink()
            if again:
                path.touch()
        calls.append(mode)
        flock(file, mode)

    monkeypatch.setattr(locks.fcntl, "flock", removed_first)
    with take_lock(path) as lock:
        assert os.path.samestat(os.fstat(lock.fileno()), path.stat())
