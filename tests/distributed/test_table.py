"""Two processes that train together fill one table, and find all of it there the next time."""

import json

import pytest
import torch
from safetensors.torch import load_file

import understudy as us
from understudy.teacher.upkeep import info

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    processes("table.py", folder, world=2)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


def test_each_process_stores_what_it_learns(folder, found):
    assert all(f["first"]["writable"] and f["first"]["forwarded"] > 0 for f in found)
    assert all((folder / "table" / f"index-{number}.bin").stat().st_size > 0 for number in range(2))
    assert info(folder / "table").writers == 0


def test_the_same_run_again_asks_no_teacher_and_learns_the_same_bits(folder, found):
    assert [f["second"]["forwarded"] for f in found] == [0, 0]
    first, second = (load_file(folder / name / "student.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_result_counts_the_images_of_all_processes(folder, found):
    total = sum(f["first"]["forwarded"] for f in found)
    assert [f["first"]["result"] for f in found] == [total, total]
    result = json.loads((folder / "first" / "result.json").read_text())
    assert result["teacher"]["images_forwarded"] == total


def test_one_process_reads_what_two_have_stored(folder, worker):
    run = us.distill(worker("table").config(folder, "alone"), quiet=True)
    assert run.metrics["teacher"]["images_forwarded"] == 0
