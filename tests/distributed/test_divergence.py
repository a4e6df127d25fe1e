"""A loss that is not finite on one of two processes: both do the same about it, and what one process would do."""

import json

import pytest

from understudy.files import read_json_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("divergence")
    for world in (1, 2):
        processes("divergence.py", folder, world=world)
    return folder


@pytest.mark.parametrize(("policy", "did"), [("skip", "skipped"), ("rewind", "rewound")])
def test_all_processes_do_what_one_would(folder, policy, did):
    one, *two = (
        json.loads((folder / f"found-{name}.json").read_text())[policy] for name in ("1-0", "2-0", "2-1")
    )
    assert two[0] == two[1]
    (event,) = two[0]["divergence"]["events"]
    assert (event["did"], event["epoch"], event["step"]) == (did, 2, 3)
    assert event["what"] == "NaN or infinity in dhkd"
    assert two[0]["divergence"] == one["divergence"]
    lines, others = (read_json_lines(folder / f"{policy}-{world}" / "metrics.jsonl") for world in (1, 2))
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys()
        assert other["lr"] == line["lr"]
        assert other["train/loss"] == pytest.approx(line["train/loss"], rel=2e-3)
