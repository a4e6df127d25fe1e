import json
import math
import multiprocessing as mp
import os
import subprocess
import sys
import threading

import pytest

from understudy.files import append_line, locked, read_json_lines, sweep, write_atomic, write_json, write_text


def test_a_write_that_fails_leaves_the_old_file_and_no_neighbour(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fails(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fails)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_is_strict_and_nan_is_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": math.nan, "b": [math.inf, 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5]}


def test_a_last_line_cut_short_is_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    append_line(path, '{"epoch": 1}')
    with path.open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert read_json_lines(path) == [{"epoch": 1}]


def hold(folder, ready):
    with locked(folder):
        ready.set()
        mp.Event().wait(60)


def test_a_second_process_is_refused_and_the_lock_dies_with_its_owner(tmp_path):
    context = mp.get_context("spawn")
    ready = context.Event()
    owner = context.Process(target=hold, args=(tmp_path, ready))
    owner.start()
    assert ready.wait(60)
    with pytest.raises(ValueError, match="second process"), locked(tmp_path):
        pass
    owner.kill()
    owner.join()
    with locked(tmp_path):
        pass


def test_what_a_killed_owner_leaves_behind_is_waited_for(tmp_path):
    """A process that decodes images has the lock from its run, and outlives it by a moment."""
    script = (
        "import os, sys; from pathlib import Path; from understudy.files import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    if os.fork() == 0: sys.stdin.read(); os._exit(0)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE) as killed:
        assert killed.wait() == -9
        with pytest.raises(ValueError, match="second process"), locked(tmp_path, patience=0):
            pass
        timer = threading.Timer(0.5, killed.stdin.close)  # lets the one that is left end
        timer.start()
        with locked(tmp_path, patience=300):
            pass
        timer.join()


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = f".last.pt.{ended.pid}.tmp", f".last.pt.{os.getpid()}.tmp"
    for name in (dead, alive, "last.pt", "notes.tmp", ".notes.tmp", f"x.last.pt.{ended.pid}.tmp"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    sweep(tmp_path / "missing")
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {alive, "last.pt", "notes.tmp", ".notes.tmp", f"x.last.pt.{ended.pid}.tmp"}
