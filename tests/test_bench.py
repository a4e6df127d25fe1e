"""What `understudy bench` says of a config."""

import importlib
import json

import pytest
import torch

from understudy.bench import PARTS, Stopwatch, bench, describe

module = importlib.import_module("understudy.bench")  # the package's own name is the function


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_MIN_SECONDS", 0.0)


def test_the_parts_of_a_step_are_all_there_and_nothing_is_left_behind(digits_config, tmp_path, capsys):
    result = bench(digits_config)
    assert list(result["parts_ms"]) == list(PARTS)
    assert all(ms > 0 for ms in result["parts_ms"].values())
    assert result["steps"] >= 20  # over several epochs: one has five
    assert result["images_per_second"] == pytest.approx(32 * 1000 / result["step_ms"])
    assert result["teacher_share"] == pytest.approx(
        result["parts_ms"]["teacher"] / sum(result["parts_ms"].values())
    )
    assert result["peak_memory_mib"] > 10
    assert json.loads(json.dumps(result)) == result
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert printed == describe(result) + "\n"
    lines = printed.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


def test_a_student_alone_has_no_teacher_to_save(digits_config, capsys):
    alone = {"teacher": None, "losses": [{"name": "ce"}], "gradients.align": "none"}
    result = bench(digits_config, quiet=True, **alone)
    assert result["parts_ms"]["teacher"] == 0
    assert result["table"] is None
    assert result["setting"]["teacher"] is None
    assert capsys.readouterr().out == ""


def test_a_table_saves_what_will_be_seen_again(digits_config):
    result = bench(
        digits_config, quiet=True, **{"train.epochs": 240, "data.augment": {"pad": 4, "flip": True}}
    )
    table, share = result["table"], result["teacher_share"]
    assert table["hits_first_run"] == pytest.approx(0.478, abs=1e-3)  # 162 views over 240 epochs
    assert table["saved_first_run"] == pytest.approx(0.478 * share, rel=1e-2)
    assert table["warm_step_ms"] == pytest.approx(result["step_ms"] * (1 - share))


def test_maps_are_said_to_fit_no_table(digits_config):
    losses = [{"name": "ce"}, {"name": "at", "weight": 1.0}]
    result = bench(digits_config, quiet=True, losses=losses, **{"gradients.align": "none"})
    assert result["table"] is None
    assert "must show maps" in describe(result)


def test_a_wrong_config_is_told_as_everywhere(digits_config):
    with pytest.raises(ValueError, match=r"unknown key 'train\.epoch'"):
        bench(digits_config, **{"train.epoch": 5})


def test_every_moment_belongs_to_the_innermost_part(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(module, "clock", lambda device: next(now))
    watch = Stopwatch(torch.device("cpu"))
    watch.enter("loop")  # 0 to 1, 3 to 6, 10 to 15
    with watch.part("data"):  # 1 to 3
        pass
    with watch.part("data"):  # 6 to 10
        pass
    watch.leave()
    assert watch.seconds == {"loop": 1 + 3 + 5, "data": 2 + 4}
