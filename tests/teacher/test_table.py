import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from understudy.teacher.fingerprint import Fingerprint
from understudy.teacher.layout import DTYPES, Layout
from understudy.teacher.table import ViewTable
from understudy.teacher.upkeep import info, remove, verify

LAYOUT = Layout(images=20, views=18, columns=(("logits", 10),), dtype="fp32")
PARTS = {"weights": "w", "data": "d", "normalisation": "n", "views": "v", "precision": "p", "dtype": "fp32"}


def open_table(path, layout=LAYOUT, **parts):
    return ViewTable(path, Fingerprint(PARTS | parts), layout)


def rows_for(keys, layout=LAYOUT):
    """What belongs in a row: a function of its number."""
    return (keys[:, None] * 0.5 + torch.arange(layout.width)).to(DTYPES[layout.dtype])


def fill(table, keys):
    table.write(keys, rows_for(keys, table.layout))


def check(table, expected_present):
    """Every row is either right or reported as not usable."""
    keys = torch.arange(table.layout.rows)
    present = table.present(keys)
    rows, usable = table.read(keys)
    assert not (usable & ~present).any()
    assert torch.equal(rows[usable], rows_for(keys, table.layout)[usable])
    assert sorted(keys[usable].tolist()) == sorted(expected_present)


def test_rows_are_absent_until_written_and_outlive_the_process(tmp_path):
    keys = torch.tensor([7, 3, 8, 9, 359, 0])
    with open_table(tmp_path / "t") as table:
        assert table.filled == 0
        assert not table.present(keys).any()
        fill(table, keys)
        assert table.filled == 6
        check(table, keys.tolist())
    with open_table(tmp_path / "t") as table:
        assert table.present(torch.tensor([7, 6])).tolist() == [True, False]
        check(table, keys.tolist())


@pytest.mark.parametrize("dtype", ["fp16", "fp32", "fp64"])
def test_every_number_type_comes_back_to_the_bit(tmp_path, dtype):
    layout = Layout(4, 3, (("logits", 5),), dtype)
    rows = torch.randn(12, 5).to(DTYPES[dtype])
    with open_table(tmp_path / "t", layout, dtype=dtype) as table:
        table.write(torch.arange(12), rows)
        back, usable = table.read(torch.arange(12).flip(0))
    assert usable.all()
    assert back.dtype == DTYPES[dtype]
    assert torch.equal(back.flip(0), rows)


def test_an_empty_table_takes_no_space(tmp_path):
    layout = Layout(50_000, 162, (("logits", 100),), "fp32")
    with open_table(tmp_path / "t", layout) as table:
        seen = info(table.path)
        assert seen.bytes_full == 50_000 * 162 * 412
        assert seen.bytes_used < 10**6
        fill(table, torch.tensor([8_099_999]))
        check_one, usable = table.read(torch.tensor([8_099_999, 5]))
        assert usable.tolist() == [True, False]
        assert torch.equal(check_one[0], rows_for(torch.tensor([8_099_999]), layout)[0])


@pytest.mark.parametrize("part", PARTS)
def test_another_part_of_the_fingerprint_is_refused_by_name(tmp_path, part):
    open_table(tmp_path / "t").close()
    with pytest.raises(
        ValueError, match=rf"must belong to this teacher .* other {part}\. Remove it"
    ) as caught:
        open_table(tmp_path / "t", **{part: "another"})
    assert "\n" not in str(caught.value)


def test_all_differing_parts_are_named_and_the_table_stays_as_it_was(tmp_path):
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(5))
    with pytest.raises(ValueError, match="with other data, weights"):
        open_table(tmp_path / "t", weights="another", data="another")
    with open_table(tmp_path / "t") as table:
        assert table.writable
        check(table, range(5))


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match=r"must be an empty folder or a view table, .*'thesis.tex'"):
        open_table(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years"
    assert {p.name for p in tmp_path.iterdir()} <= {"thesis.tex", ".lock"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', "\xff\x00"])
def test_an_unreadable_meta_file_is_refused(tmp_path, content):
    open_table(tmp_path / "t").close()
    (tmp_path / "t" / "meta.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="damaged"):
        open_table(tmp_path / "t")


def test_another_format_is_refused(tmp_path):
    open_table(tmp_path / "t").close()
    meta = json.loads((tmp_path / "t" / "meta.json").read_text())
    (tmp_path / "t" / "meta.json").write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(ValueError, match=r"must have format 2 \(several writers\), got 99\. Remove it"):
        open_table(tmp_path / "t")


@pytest.mark.parametrize("name", ["rows-0.bin", "index-0.bin"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_file_loses_rows_and_never_gives_a_wrong_one(tmp_path, name, keep):
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(LAYOUT.rows))
    file = tmp_path / "t" / name
    size = int(file.stat().st_size * keep)
    os.truncate(file, size)
    with open_table(tmp_path / "t") as table:
        check(table, range(size // (40 if name == "rows-0.bin" else 12)))
        fill(table, torch.arange(LAYOUT.rows))
        check(table, range(LAYOUT.rows))


@pytest.mark.parametrize("name", ["rows-0.bin", "index-0.bin"])
def test_a_missing_file_loses_rows_and_never_gives_a_wrong_one(tmp_path, name):
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(LAYOUT.rows))
    (tmp_path / "t" / name).unlink()
    with open_table(tmp_path / "t") as table:
        check(table, [])


@pytest.mark.parametrize("name", ["rows-0.bin", "index-0.bin"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flipped_bits_lose_their_rows_and_never_give_a_wrong_one(tmp_path, name, seed):
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(LAYOUT.rows))
    file = tmp_path / "t" / name
    content = bytearray(file.read_bytes())
    width = len(content) // LAYOUT.rows
    places = torch.randint(len(content), (30,), generator=torch.Generator().manual_seed(seed)).tolist()
    for k, place in enumerate(places):
        content[place] ^= 1 << k % 8
    file.write_bytes(content)
    keys = torch.arange(LAYOUT.rows)
    with open_table(tmp_path / "t") as table:
        rows, usable = table.read(keys)
        assert torch.equal(rows[usable], rows_for(keys)[usable])
        hit = {place // width for place in places}
        lost = set(keys[~usable].tolist())
        assert hit <= lost
        assert len(lost) <= (1 if name == "rows-0.bin" else 2) * len(
            hit
        )  # a damaged key may name another row
        for key in sorted(lost):
            fill(table, torch.tensor([key]))
        check(table, range(LAYOUT.rows))
    assert file.stat().st_size == len(content)  # mended in place
    with open_table(tmp_path / "t") as table:
        check(table, range(LAYOUT.rows))


def test_rows_out_of_another_table_are_not_believed(tmp_path):
    """Files copied between folders: same sizes, other teacher."""
    for name in ("a", "b"):
        with open_table(tmp_path / name, weights=name) as table:
            fill(table, torch.arange(LAYOUT.rows))
    for file in ("rows-0.bin", "index-0.bin"):
        (tmp_path / "a" / file).replace(tmp_path / "b" / file)
    with open_table(tmp_path / "b", weights="b") as table:
        check(table, [])


def test_two_writers_see_each_others_rows_as_they_come(tmp_path):
    with open_table(tmp_path / "t") as first, open_table(tmp_path / "t") as second:
        assert first.writable
        assert second.writable
        fill(first, torch.arange(10))
        fill(second, torch.arange(20, 30))
        for table in (first, second):
            check(table, [*range(10), *range(20, 30)])  # seen without opening it again
            assert table.filled == 20
        assert (tmp_path / "t" / "rows-1.bin").exists()
    with open_table(tmp_path / "t") as table:
        check(table, [*range(10), *range(20, 30)])


def test_a_shard_goes_to_whoever_comes_when_its_owner_has_ended(tmp_path):
    first, second = open_table(tmp_path / "t"), open_table(tmp_path / "t")
    fill(first, torch.arange(10))
    fill(second, torch.arange(10, 20))
    first.close()
    first.close()
    assert not first.writable
    with open_table(tmp_path / "t") as third:
        fill(third, torch.arange(20, 30))  # after the first one's rows
        check(second, range(30))
        check(third, range(30))
    second.close()
    assert not (tmp_path / "t" / "rows-2.bin").exists()
    with open_table(tmp_path / "t") as table:
        check(table, range(30))


def test_without_a_free_shard_a_process_reads_until_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr("understudy.teacher.table.MOST_SHARDS", 2)
    owners = [open_table(tmp_path / "t") for _ in range(2)]
    with open_table(tmp_path / "t") as reader:
        assert not reader.writable
        fill(owners[0], torch.arange(10))
        check(reader, range(10))
        fill(reader, torch.arange(50, 60))  # not stored
        check(reader, range(10))
        fill(owners[1], torch.arange(10, 20))
        check(reader, range(20))
        assert not reader.claim()
        owners[1].close()
        assert reader.claim()
        fill(reader, torch.arange(50, 60))
        check(reader, [*range(20), *range(50, 60)])
        check(owners[0], [*range(20), *range(50, 60)])
    owners[0].close()


def test_rows_that_another_process_has_stored_are_not_stored_twice(tmp_path):
    with open_table(tmp_path / "t") as first, open_table(tmp_path / "t") as second:
        fill(first, torch.arange(10))
        fill(second, torch.arange(5, 15))
        assert (tmp_path / "t" / "index-1.bin").stat().st_size == 5 * 12
        check(first, range(15))


def copies(path):
    """A table with rows 0 to 9 in two shards."""
    with open_table(path) as first, open_table(path) as second:
        fill(second, torch.arange(10))
        for name in ("rows", "index"):
            (path / f"{name}-0.bin").write_bytes((path / f"{name}-1.bin").read_bytes())
        assert first.filled == 0
    return path


@pytest.mark.parametrize("name", ["rows", "index"])
@pytest.mark.parametrize("damaged", [0, 1])
def test_of_two_copies_the_one_that_is_whole_is_taken(tmp_path, name, damaged):
    path = copies(tmp_path / "t")
    with open_table(path) as table:
        check(table, range(10))
        assert table.filled == 10
    file = path / f"{name}-{damaged}.bin"
    content = bytearray(file.read_bytes())
    for k in range(10):
        content[k * (40 if name == "rows" else 12) + (8 if name == "index" else 5)] ^= 64
    file.write_bytes(content)
    with open_table(path) as table:
        check(table, range(10))


def test_a_row_damaged_in_anothers_shard_is_mended_in_the_own_one(tmp_path):
    path = tmp_path / "t"
    with open_table(path) as first, open_table(path) as second:
        fill(second, torch.arange(10))
        with (path / "rows-1.bin").open("r+b") as rows:
            rows.seek(3 * 40)
            rows.write(bytes(40))
        assert first.present(torch.arange(10)).all()
        check(first, set(range(10)) - {3})
        fill(first, torch.arange(10))
        check(first, range(10))
        assert (path / "index-0.bin").stat().st_size == 12  # the others are there
        second.present(torch.arange(1))
        check(second, range(10))  # and its owner finds the whole one
    for _ in range(2):
        with open_table(path) as table:
            check(table, range(10))


def test_an_entry_that_names_another_row_does_not_hide_it(tmp_path):
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(10))
    with (tmp_path / "t" / "index-0.bin").open("r+b") as index:
        index.seek(7 * 12)
        index.write(bytes([3]))  # the entry of row 7 says 3
    with open_table(tmp_path / "t") as table:
        check(table, set(range(10)) - {7})


def test_a_full_shard_takes_rows_whose_copies_others_hold(tmp_path):
    path = copies(tmp_path / "t")
    with open_table(path) as table:
        fill(table, torch.arange(LAYOUT.rows))
        check(table, range(LAYOUT.rows))
    with (path / "rows-1.bin").open("r+b") as rows:
        rows.write(bytes(400))
    with open_table(path) as table:
        fill(table, torch.arange(LAYOUT.rows))
        check(table, range(LAYOUT.rows))
        assert (path / "index-0.bin").stat().st_size <= LAYOUT.rows * 12


def test_rows_cut_off_in_use_come_back_as_missing(tmp_path):
    with open_table(tmp_path / "t") as owner:
        fill(owner, torch.arange(10))
        os.truncate(tmp_path / "t" / "rows-0.bin", 100)
        with open_table(tmp_path / "t") as table:
            check(table, range(2))
        check(owner, range(2))


def test_a_refused_table_releases_the_lock(tmp_path):
    open_table(tmp_path / "t").close()
    with pytest.raises(ValueError, match="weights"):
        open_table(tmp_path / "t", weights="another")
    with open_table(tmp_path / "t") as table:
        assert table.writable


@pytest.mark.parametrize("after", [0, 1, 3, 4, 6])
def test_a_full_disk_is_an_error_and_the_table_stays_right(tmp_path, monkeypatch, after):
    real, left = os.pwrite, [after]

    def full(file, data, offset):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        return real(file, data[: max(1, len(data) // 2)], offset)  # and writes may be short

    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(5))
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            fill(table, torch.arange(100, 102))
        monkeypatch.undo()
        check(table, range(5))
        fill(table, torch.arange(100, 110))
        check(table, [*range(5), *range(100, 110)])


def test_a_row_whose_entry_came_to_the_disk_before_it_counts_as_missing(tmp_path):
    """What a power cut may leave."""
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(10))
    with (tmp_path / "t" / "rows-0.bin").open("r+b") as rows:
        rows.seek(3 * 40)
        rows.write(bytes(40))
    with open_table(tmp_path / "t") as table:
        check(table, set(range(10)) - {3})


def test_a_row_without_an_entry_and_a_part_of_an_entry_count_as_missing(tmp_path):
    """What SIGKILL may leave."""
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(10))
    os.truncate(tmp_path / "t" / "index-0.bin", 6 * 12 + 7)
    with open_table(tmp_path / "t") as table:
        check(table, range(6))
        fill(table, torch.arange(100, 103))
    with open_table(tmp_path / "t") as table:
        check(table, [*range(6), *range(100, 103)])


def test_what_a_crash_left_before_there_was_a_table_is_thrown_away(tmp_path):
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(10))
    (tmp_path / "t" / "meta.json").unlink()
    with open_table(tmp_path / "t") as table:
        check(table, [])
        fill(table, torch.arange(5))
        check(table, range(5))


WRITER = """
    import sys, torch
    from pathlib import Path
    from understudy.teacher.fingerprint import Fingerprint
    from understudy.teacher.layout import Layout
    from understudy.teacher.table import ViewTable

    layout = Layout(images=20, views=18, columns=(("logits", 10),), dtype="fp32")
    parts = {"weights": "w", "data": "d", "normalisation": "n", "views": "v", "precision": "p", "dtype": "fp32"}
    table = ViewTable(Path(sys.argv[1]), Fingerprint(parts), layout)
    order = torch.randperm(layout.rows, generator=torch.Generator().manual_seed(int(sys.argv[2])))

    def write(keys):
        table.write(keys, keys[:, None] * 0.5 + torch.arange(10.0))

    write(order[:7])  # before anyone goes: a writer that is started late might find everything written by the other
    print("ready", table.writable, flush=True)
    sys.stdin.readline()
    while True:  # again and again, until killed
        for keys in order.split(7):
            write(keys)
"""


def start_writer(path, seed=1):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready True\n"
    return process


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def test_readers_beside_writers_and_after_their_death_see_only_right_rows(tmp_path):
    path = tmp_path / "t"
    with ThreadPoolExecutor() as pool:
        processes = list(pool.map(start_writer, [path] * 2, [1, 2]))
    keys = torch.arange(LAYOUT.rows)
    try:
        with open_table(path) as table:
            for process in processes:
                go(process)
            seen, last = 0, 0
            while seen < LAYOUT.rows // 2:  # while the others write as fast as they can
                table.present(keys)
                rows, usable = table.read(keys)
                assert torch.equal(rows[usable], rows_for(keys)[usable])
                last, seen = seen, int(usable.sum())
                assert seen >= last
            processes[0].send_signal(signal.SIGKILL)  # in the middle of writing
            processes[0].wait()
            deadline = time.monotonic() + 60
            while not usable.all():  # the other one goes on
                assert time.monotonic() < deadline
                time.sleep(0.01)
                table.present(keys)
                rows, usable = table.read(keys)
                assert torch.equal(rows[usable], rows_for(keys)[usable])
            with open_table(path) as heir:  # of the shard of the dead one
                assert heir.writable
                assert info(path).writers == 3
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for number in range(2):
        assert (path / f"index-{number}.bin").stat().st_size >= 12
    with open_table(path) as table:
        check(table, range(LAYOUT.rows))


def test_verify_and_info_work_beside_a_writer(make, tmp_path):
    world = make()
    with world.table(tmp_path / "t") as table:
        keys = torch.arange(0, table.layout.rows, 5)
        blocks = world.blocks()
        table.write(keys, blocks(*table.layout.pairs(keys)))
        with world.table(tmp_path / "t") as other:
            assert verify(other, blocks).sound
        assert info(tmp_path / "t").in_use
    assert not info(tmp_path / "t").in_use


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_table_that_may_only_be_read_is_read(tmp_path):
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(5))
    for file in (tmp_path / "t").iterdir():
        file.chmod(0o444)
    (tmp_path / "t").chmod(0o555)
    with open_table(tmp_path / "t") as table:
        assert not table.writable
        check(table, range(5))


def test_a_reader_goes_on_when_its_table_is_removed(tmp_path):
    with open_table(tmp_path / "t") as reader:
        fill(reader, torch.arange(5))
        reader.close()
        remove(tmp_path / "t")
        assert not reader.claim()
        check(reader, range(5))
        with open_table(tmp_path / "t", weights="another") as other:  # in its place
            assert not reader.claim()
            fill(other, torch.arange(5, 10))
            check(reader, range(5))
            check(other, range(5, 10))


def test_a_table_of_the_first_format_is_refused_and_can_be_removed(tmp_path):
    open_table(tmp_path / "t").close()
    meta = json.loads((tmp_path / "t" / "meta.json").read_text())
    (tmp_path / "t" / "meta.json").write_text(json.dumps(meta | {"format": 1}))
    for name in ("rows.bin", "index.bin"):
        (tmp_path / "t" / name).write_bytes(b"old")
    with pytest.raises(
        ValueError, match=r"must have format 2 .*, got 1\. Remove it \(understudy table remove\)"
    ):
        open_table(tmp_path / "t")
    remove(tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_table(tmp_path / "file" / "t")
