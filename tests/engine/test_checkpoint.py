import hashlib
import io
import os
import pickle
import tracemalloc

import pytest
import torch

from understudy.engine import checkpoint
from understudy.engine.checkpoint import load_checkpoint, previous_of, save_checkpoint


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    for epoch in (1, 2):
        save_checkpoint(path, {"epoch": epoch, "model": {"w": torch.arange(100.0) + epoch}})
    return path


def test_it_returns_what_was_saved_and_keeps_the_one_before(path):
    assert torch.equal(load_checkpoint(path)["model"]["w"], torch.arange(100.0) + 2)
    assert load_checkpoint(previous_of(path))["epoch"] == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.pt", "previous.pt"]


def test_torch_reads_it_too(path):
    assert torch.load(path, weights_only=True)["epoch"] == 2


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_flipped_bit_anywhere_is_found_and_the_one_before_is_offered(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.pt must be whole.*after epoch 1.*--previous") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 1, 80, 100, 1000, -1])
def test_a_truncated_file_is_found(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="must be whole"):
        load_checkpoint(path)


def test_if_both_are_damaged_it_says_so(path):
    path.write_bytes(b"x")
    previous_of(path).write_bytes(b"y")
    with pytest.raises(ValueError, match="damaged too; start the run anew"):
        load_checkpoint(path)


def test_a_crash_between_the_two_renames_costs_nothing(path, monkeypatch):
    replace, calls = os.replace, []

    def dies(source, target):
        calls.append(target)
        if len(calls) == 3:  # staged, previous, and now the name itself
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"epoch": 3})
    assert not path.exists()
    assert load_checkpoint(path)["epoch"] == 2


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(path, tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    archive = pickle.dumps(Payload(), protocol=2)
    path.write_bytes(archive + checkpoint._MARK + hashlib.sha256(archive).hexdigest().encode())
    with pytest.raises(ValueError, match="must be whole"):
        load_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def test_another_format_is_named(path):
    save_checkpoint(path, {"epoch": 3})
    state = torch.load(path, weights_only=True) | {"format": 99}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.write_bytes(
        buffer.getvalue() + checkpoint._MARK + hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    )
    with pytest.raises(ValueError, match="format 99 instead of 1"):
        load_checkpoint(path)


def test_a_disk_that_gives_back_other_bytes_is_found_before_the_good_file_goes(path, monkeypatch):
    before, write = path.read_bytes(), checkpoint.write_atomic

    def damages(target, content):
        write(target, content)
        written = bytearray(target.read_bytes())
        written[len(written) // 2] ^= 1
        target.write_bytes(written)

    monkeypatch.setattr(checkpoint, "write_atomic", damages)
    with pytest.raises(OSError, match="gives back other bytes"):
        save_checkpoint(path, {"epoch": 3})
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.pt", "previous.pt"]


def test_saving_takes_no_memory_for_another_copy(path):
    state = {"epoch": 3, "model": {str(i): torch.zeros(2**18) for i in range(16)}}  # 16 MiB
    tracemalloc.start()
    try:
        save_checkpoint(path, state)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert load_checkpoint(path)["epoch"] == 3
