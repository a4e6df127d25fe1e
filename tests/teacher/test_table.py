import errno
import json
import os
import signal
import subprocess
import sys
import textwrap

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
    assert not (tmp_path / "rows.bin").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "\xff\x00"])
def test_an_unreadable_meta_file_is_refused(tmp_path, content):
    open_table(tmp_path / "t").close()
    (tmp_path / "t" / "meta.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="damaged"):
        open_table(tmp_path / "t")


def test_another_format_is_refused(tmp_path):
    open_table(tmp_path / "t").close()
    meta = json.loads((tmp_path / "t" / "meta.json").read_text())
    (tmp_path / "t" / "meta.json").write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(ValueError, match="must have format 1, got 99"):
        open_table(tmp_path / "t")


@pytest.mark.parametrize("name", ["rows.bin", "index.bin"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_file_loses_rows_and_never_gives_a_wrong_one(tmp_path, name, keep):
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(LAYOUT.rows))
    file = tmp_path / "t" / name
    size = int(file.stat().st_size * keep)
    os.truncate(file, size)
    with open_table(tmp_path / "t") as table:
        check(table, range(size // (40 if name == "rows.bin" else 12)))
        fill(table, torch.arange(LAYOUT.rows))
        check(table, range(LAYOUT.rows))


@pytest.mark.parametrize("name", ["rows.bin", "index.bin"])
def test_a_missing_file_loses_rows_and_never_gives_a_wrong_one(tmp_path, name):
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(LAYOUT.rows))
    (tmp_path / "t" / name).unlink()
    with open_table(tmp_path / "t") as table:
        check(table, [])


@pytest.mark.parametrize("name", ["rows.bin", "index.bin"])
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
        assert len(lost) <= (1 if name == "rows.bin" else 2) * len(hit)  # a damaged key may name another row
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
    for file in ("rows.bin", "index.bin"):
        (tmp_path / "a" / file).replace(tmp_path / "b" / file)
    with open_table(tmp_path / "b", weights="b") as table:
        check(table, [])


def test_the_second_to_open_reads_and_takes_over_when_the_first_ends(tmp_path):
    first = open_table(tmp_path / "t")
    fill(first, torch.arange(10))
    with open_table(tmp_path / "t") as second:
        assert first.writable
        assert not second.writable
        check(second, range(10))
        fill(second, torch.arange(50, 60))  # not stored
        check(second, range(10))
        fill(first, torch.arange(10, 20))
        check(second, range(20))  # seen without opening it again
        assert not second.claim()
        first.close()
        first.close()
        assert second.claim()
        fill(second, torch.arange(50, 60))
        check(second, [*range(20), *range(50, 60)])


def test_a_reader_refuses_a_table_that_it_cannot_mend(tmp_path):
    with open_table(tmp_path / "t"):
        os.truncate(tmp_path / "t" / "rows.bin", 100)
        with pytest.raises(ValueError, match=r"must be whole, got a shorter rows\.bin"):
            open_table(tmp_path / "t")


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
    with (tmp_path / "t" / "rows.bin").open("r+b") as rows:
        rows.seek(3 * 40)
        rows.write(bytes(40))
    with open_table(tmp_path / "t") as table:
        check(table, set(range(10)) - {3})


def test_a_row_without_an_entry_and_a_part_of_an_entry_count_as_missing(tmp_path):
    """What SIGKILL may leave."""
    with open_table(tmp_path / "t") as table:
        fill(table, torch.arange(10))
    os.truncate(tmp_path / "t" / "index.bin", 6 * 12 + 7)
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
    print("ready", table.writable, flush=True)
    sys.stdin.readline()
    order = torch.randperm(layout.rows, generator=torch.Generator().manual_seed(1))
    while True:  # again and again, until killed
        for keys in order.split(7):
            table.write(keys, keys[:, None] * 0.5 + torch.arange(10.0))
"""


def start_writer(path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline().startswith("ready")
    return process


def test_a_reader_beside_a_writer_and_after_its_death_sees_only_right_rows(tmp_path):
    path = tmp_path / "t"
    process = start_writer(path)
    keys = torch.arange(LAYOUT.rows)
    try:
        with open_table(path) as table:
            assert not table.writable
            process.stdin.write("go\n")
            process.stdin.flush()
            seen, last = 0, 0
            while seen < LAYOUT.rows // 2:  # while the other writes as fast as it can
                table.present(keys)
                rows, usable = table.read(keys)
                assert torch.equal(rows[usable], rows_for(keys)[usable])
                last, seen = seen, int(usable.sum())
                assert seen >= last
            process.send_signal(signal.SIGKILL)  # in the middle of writing
            process.wait()
            assert table.claim()
            rows, usable = table.read(keys)
            assert torch.equal(rows[usable], rows_for(keys)[usable])
            assert usable.sum() >= seen
    finally:
        process.kill()
        process.communicate()


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
    open_table(tmp_path / "t").close()
    owner = open_table(tmp_path / "t")
    fill(owner, torch.arange(5))
    with open_table(tmp_path / "t") as reader:
        owner.close()
        remove(tmp_path / "t")
        assert not reader.claim()
        check(reader, range(5))


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_table(tmp_path / "file" / "t")
