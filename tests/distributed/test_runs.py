"""Whole jobs on two processes leave what one process leaves, and go on where any number of them stopped."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import understudy as us
from understudy.files import read_json_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def jobs(worker):
    return worker("runs")


@pytest.fixture(scope="module")
def folder(processes, jobs, tmp_path_factory):
    """Everything that `workers/runs.py` did on two processes, and the same on one."""
    folder = tmp_path_factory.mktemp("runs")
    jobs.stopped(folder / "one-to-two", 7)
    us.distill(jobs.config(folder / "one"), quiet=True)
    us.distill(jobs.config(folder / "one-parts", **jobs.PARTS), quiet=True)
    processes("runs.py", folder, world=2)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


def weights(path):
    return load_file(path / "student.safetensors")


def assert_same_course(run, other):
    """Both runs went the same way, but for float32's rounding, which may tip what is counted on a few images."""
    lines, others = (read_json_lines(path / "metrics.jsonl") for path in (run, other))
    for line, expected in zip(lines, others, strict=True):
        assert line.keys() == expected.keys()
        counted = {"agreement", "conflict", "cosine", "top_class"}
        left_out = {
            "images_per_second",
            "train/conflict",
            "train/lambda",
            *(f"diagnose/{c}" for c in counted),
        }
        for key in line.keys() - left_out:
            assert line[key] == pytest.approx(expected[key], rel=2e-3, abs=2.1 if "acc" in key else 0), key


def test_two_processes_leave_the_files_of_one(folder):
    assert {p.name for p in (folder / "whole").rglob("*")} == {p.name for p in (folder / "one").rglob("*")}
    assert_same_course(folder / "whole", folder / "one")
    result, expected = (json.loads((folder / n / "result.json").read_text()) for n in ("whole", "one"))
    assert result.keys() == expected.keys()
    assert result["best"].keys() == expected["best"].keys()
    assert sum(map(sum, result["confusion"])) == 500
    assert json.loads((folder / "whole" / "environment.json").read_text())["processes"] == 2


def test_both_processes_hold_the_same_bits(found):
    for name in ("whole", "stopped", "own norms"):
        assert found[0][name] == found[1][name], name


def test_a_run_that_one_process_stopped_resumes_to_the_same_bits(folder, found):
    assert found[0]["stopped"] == found[0]["whole"]
    assert_same_course(folder / "stopped", folder / "whole")


def test_the_order_of_the_images_does_not_depend_on_the_processes(folder, found, jobs, tmp_path):
    with jobs.watched() as order:
        us.distill(jobs.config(tmp_path / "again"), quiet=True)
    assert found[0]["order"] == order
    assert found[0]["before"] == order[:8]  # a wish to stop is heard a step later
    assert found[0]["after"] == order[7:]


def test_one_process_goes_on_where_two_stopped(folder, jobs):
    us.resume(folder / "two-to-one", quiet=True)
    assert_same_course(folder / "two-to-one", folder / "one")


def test_two_processes_go_on_where_one_stopped(folder):
    assert_same_course(folder / "one-to-two", folder / "one")


def test_accumulated_parts_hold_the_same_images_on_any_number_of_processes(folder):
    assert_same_course(folder / "parts", folder / "one-parts")


def test_norms_of_their_own_are_another_run_with_a_plain_student(folder):
    ours, synced, plain = (weights(folder / n) for n in ("own-norms", "whole", "one"))
    assert ours.keys() == synced.keys() == plain.keys()
    assert any(not torch.allclose(ours[n], synced[n], rtol=1e-3) for n in ours)


def test_evaluation_in_parts_is_that_of_the_whole(folder, found):
    expected = us.evaluate(folder / "whole", quiet=True)
    assert found[0]["measured"] == found[1]["measured"]
    assert found[0]["measured"] == pytest.approx(expected, rel=1e-6)  # sums of parts


def test_a_loss_that_one_process_sees_diverge_stops_both(folder, found):
    kind, words = found[0]["diverged"]
    assert kind == "DivergedError"
    assert "infinity in dhkd in epoch 1" in words
    assert found[1]["diverged"][0] == "OtherProcessError"
    assert json.loads((folder / "diverged" / "result.json").read_text())["status"] == "diverged"


def test_what_only_one_process_lacks_is_said_by_it_and_leaves_nothing_behind(folder, found):
    assert found[1]["no data"] == ["ValueError", "no images on this machine"]
    assert found[0]["no data"][0] == "OtherProcessError"
    assert not (folder / "no-data").exists()


def test_a_finished_run_is_refused_once(found):
    assert found[0]["finished"][0] == "ValueError"
    assert found[1]["finished"][0] == "OtherProcessError"
    assert "finished run" in found[1]["finished"][1]


def test_no_more_than_the_first_process_writes(folder):
    log = (Path(folder) / "whole" / "train.log").read_text().splitlines()
    assert sum("processes share each batch" in line for line in log) == 1
    assert sum("test top-1" in line for line in log) == 1
