"""Decoding workers, RandAugment, CutMix, balance and label noise at once: two processes do what one does."""

import json

import pytest

from understudy.files import read_json_lines

pytestmark = pytest.mark.slow


def test_two_processes_show_and_learn_what_one_does(processes, worker, tmp_path):
    job = worker("loaded")
    job.write_pictures(tmp_path)
    expected = job.seen(job.config(tmp_path, "one"))
    processes("loaded.py", tmp_path, world=2)
    for rank in range(2):
        assert json.loads((tmp_path / f"seen-{rank}.json").read_text()) == expected
    lines, others = (read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("two", "one"))
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys()
        for key in (key for key in line if key.startswith(("train/", "val/"))):
            assert line[key] == pytest.approx(other[key], rel=1e-4, abs=4 if "acc" in key else 0), key
