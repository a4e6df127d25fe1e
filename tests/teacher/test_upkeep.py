import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from understudy.teacher.upkeep import fill, info, remove, verify


def test_fill_computes_every_view_once_and_reports_on_the_way(make, tmp_path):
    world = make(n=10)
    blocks = world.blocks(size=7)
    seen = []
    with world.table(tmp_path / "t", 7) as table:
        assert fill(table, blocks, progress=lambda *a: seen.append(a)) == 180
        assert table.filled == 180
        assert blocks.forwarded == 182  # 26 blocks of 7
        rows, usable = table.read(torch.arange(180))
    assert usable.all()
    assert torch.equal(rows, world.blocks(size=7)(*blocks.layout.pairs(torch.arange(180))))
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == (180, 180)


def test_fill_goes_on_where_it_was_and_mends(make, tmp_path):
    world = make(n=10)
    with world.table(tmp_path / "t") as table:
        budget = iter([False] * 5 + [True])
        assert fill(table, world.blocks(), stop=lambda: next(budget)) == 40
        assert table.filled == 40
    with (tmp_path / "t" / "rows-0.bin").open("r+b") as rows:
        rows.seek(17 * 40)
        byte = rows.read(1)[0]
        rows.seek(17 * 40)
        rows.write(bytes([byte ^ 1]))  # which row it is depends on the fingerprint
    with world.table(tmp_path / "t") as table:
        assert fill(table, world.blocks()) == 180 - 39
        assert verify(table, world.blocks()).sound
        assert fill(table, world.blocks()) == 0


def test_fill_of_a_memory_table(make):
    world = make(n=10)
    table = world.table(None)
    assert fill(table, world.blocks()) == 180
    assert table.filled == 180


def test_a_fill_that_finds_no_free_shard_is_refused(make, tmp_path, monkeypatch):
    monkeypatch.setattr("understudy.teacher.table.MOST_SHARDS", 1)
    world = make(n=10)
    with (
        world.table(tmp_path / "t"),
        world.table(tmp_path / "t") as other,
        pytest.raises(ValueError, match="must have a free shard"),
    ):
        fill(other, world.blocks())


def test_two_that_fill_by_turns_leave_out_what_the_other_one_stored(make, tmp_path):
    world = make(n=20)
    with world.table(tmp_path / "t") as first, world.table(tmp_path / "t") as second:
        counts = [0, 0]

        def other(*_):
            budget = iter([False, True])  # one block
            counts[1] += fill(second, world.blocks(), stop=lambda: next(budget))

        counts[0] = fill(first, world.blocks(), progress=other)
        assert sum(counts) == 20 * 18
        assert min(counts) > 100
        assert verify(first, world.blocks(), sample=1000).sound
        assert info(tmp_path / "t").filled == first.filled == second.filled == 20 * 18


def test_a_full_disk_stops_the_filling_and_keeps_what_is_done(make, tmp_path, monkeypatch):
    world = make(n=10)
    real, left = os.pwrite, [9]

    def full(file, data, offset):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data, offset)

    with world.table(tmp_path / "t") as table:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            fill(table, world.blocks())
        monkeypatch.undo()
        assert table.filled == 32
        assert verify(table, world.blocks()).sound
        assert fill(table, world.blocks()) == 180 - 32


def test_verify_counts_damage_and_recomputes_a_sample(make, tmp_path):
    world = make(n=10)
    with world.table(tmp_path / "t") as table:
        fill(table, world.blocks())
        clean = verify(table, world.blocks(), sample=50)
        assert clean.sound
        assert (clean.filled, clean.damaged, clean.recomputed, clean.wrong, clean.worst) == (
            180,
            0,
            50,
            0,
            0.0,
        )
    with (tmp_path / "t" / "rows-0.bin").open("r+b") as rows:
        rows.seek(17 * 40)
        (byte,) = rows.read(1)
        rows.seek(17 * 40)
        rows.write(bytes([byte ^ 1]))
    with world.table(tmp_path / "t") as table:
        found = verify(table, world.blocks(), sample=1000)
    assert not found.sound
    assert (found.filled, found.damaged, found.recomputed) == (180, 1, 179)


def test_verify_finds_answers_of_code_that_no_fingerprint_sees(make, tmp_path):
    world = make(n=10)
    with world.table(tmp_path / "t") as table:
        fill(table, world.blocks())
        world.teacher.module.stem.register_forward_hook(lambda m, args, out: out * 1.05)
        found = verify(table, world.blocks(), sample=20)
    assert found.damaged == 0
    assert found.wrong > 15
    assert found.worst > 1e-2
    assert not found.sound


def test_verify_of_an_empty_table_finds_nothing(make, tmp_path):
    world = make(n=10)
    with world.table(tmp_path / "t") as table:
        found = verify(table, world.blocks())
    assert found.sound
    assert (found.filled, found.recomputed) == (0, 0)


def test_info_tells_size_share_and_fingerprint(make, tmp_path):
    world = make(n=10)
    with world.table(tmp_path / "t") as table:
        keys = torch.arange(45)
        table.write(keys, world.blocks()(*table.layout.pairs(keys)))
        seen = info(tmp_path / "t")
        assert seen.in_use
        assert seen.writers == 1
    seen = info(tmp_path / "t")
    assert (seen.images, seen.views, seen.filled, seen.share) == (10, 18, 45, 0.25)
    assert seen.bytes_full == 180 * 52
    assert 0 < seen.bytes_used <= 2**15
    assert not seen.in_use
    assert seen.parts["stored"] == "logits 10"
    assert {"weights", "data", "normalisation", "views", "precision"} <= seen.parts.keys()


def test_info_and_remove_need_a_table(tmp_path):
    for verb in (info, remove):
        with pytest.raises(ValueError, match=r"must have a meta\.json, got none"):
            verb(tmp_path)


def test_remove_deletes_the_table_and_nothing_else(make, tmp_path):
    world = make(n=10)
    with world.table(tmp_path / "t"), pytest.raises(ValueError, match="must not be in use"):
        remove(tmp_path / "t")
    (tmp_path / "t" / "notes.txt").write_text("mine")
    remove(tmp_path / "t")
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["notes.txt"]
    world.table(tmp_path / "u").close()
    remove(tmp_path / "u")
    assert not (tmp_path / "u").exists()


FILLER = """
    import importlib.util, sys
    from pathlib import Path
    from understudy.teacher.upkeep import fill

    spec = importlib.util.spec_from_file_location("small", sys.argv[1])
    small = importlib.util.module_from_spec(spec)
    sys.modules["small"] = small
    spec.loader.exec_module(small)
    world = small.make_world(n=1200)
    with world.table(Path(sys.argv[2])) as table:
        budget = iter([False, True])  # a block now: one that is started late might find nothing left to do
        done = fill(table, world.blocks(), stop=lambda: next(budget))
        print("ready", flush=True)
        sys.stdin.readline()
        print(done + fill(table, world.blocks()), flush=True)
"""


def start_filler(path):
    """Starts a process that fills a table once it is told to."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(FILLER),
            str(Path(__file__).with_name("conftest.py")),
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.fixture
def fillers(tmp_path):
    """A function that starts processes which will fill one table, and gives them back when all are ready."""
    started = []

    def start(count):
        with ThreadPoolExecutor() as pool:
            started.extend(pool.map(start_filler, [tmp_path / "t"] * count))
        return started[-count:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def check_full(path, world):
    """All rows are there, and to the bit what the teacher says."""
    keys, blocks = torch.arange(world.blocks().layout.rows), world.blocks()
    with world.table(path) as table:
        assert table.writable  # the locks died with their owners
        rows, usable = table.read(keys)
    assert usable.all()
    assert torch.equal(rows, blocks(*blocks.layout.pairs(keys)))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_fill_one_table_share_the_work(make, tmp_path, fillers, count):
    rows, processes = 1200 * 18, fillers(count)
    assert info(tmp_path / "t").writers == count
    for process in processes:
        go(process)
    computed = [int(process.communicate()[0]) for process in processes]
    assert rows <= sum(computed) <= 1.05 * rows  # little is computed twice
    assert min(computed) > 0  # how large each one's part is, is the scheduler's affair
    check_full(tmp_path / "t", make(n=1200))


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_its_share_to_the_other_one(make, tmp_path, fillers):
    path = tmp_path / "t"
    first, second = fillers(2)
    go(first)
    go(second)
    while info(path).share <= 0.1:
        time.sleep(0.001)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert int(second.communicate()[0]) < 1200 * 18
    assert all((path / f"index-{number}.bin").stat().st_size > 0 for number in range(2))
    check_full(path, make(n=1200))


@pytest.mark.slow
def test_filling_that_is_killed_again_and_again_ends_with_a_sound_table(make, tmp_path, fillers):
    """SIGKILL after a random part of a second, three times; then the rest, and every row is right."""
    path, world = tmp_path / "t", make(n=1200)
    filled = [0]
    for wait in (0.02, 0.15, 0.4):
        (process,) = fillers(1)
        go(process)
        while info(path).filled == filled[-1]:
            time.sleep(0.001)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        filled.append(info(path).filled)
    assert filled == sorted(set(filled))
    with world.table(path) as table:
        assert verify(table, world.blocks(), sample=10_000).sound
        assert fill(table, world.blocks()) == 1200 * 18 - filled[-1]
    check_full(path, world)
