"""Did it help: one budget, paired seeds, finished runs reused."""

import json

import pytest

import understudy as us
from understudy import run as jobs


@pytest.fixture
def plan(digits_config, tmp_path):
    return digits_config | {
        "losses": [{"name": "ce"}],
        "gradients": {},
        "data": {"name": "digits", "limit": 100},
        "train": {"epochs": 2, "batch_size": 50, "threads": 1, "device": "cpu"},
        "study": {
            "methods": ["kd", {"name": "mine", "losses": [{"name": "ce"}, {"name": "dkd", "beta": 2.0}]}],
            "seeds": [0, 1],
        },
        "output": str(tmp_path / "study"),
    }


def test_a_study_compares_every_method_with_the_student_alone_and_with_kd(plan):
    table = us.study(plan, quiet=True).table
    assert [arm["name"] for arm in table["arms"]] == ["teacher", "student alone", "kd", "mine"]
    assert [len(arm["runs"]) for arm in table["arms"]] == [1, 2, 2, 2]
    assert [v.split(":")[0].split(" better")[0].split(" worse")[0] for v in table["verdicts"]]
    text = "\n".join(table["verdicts"])
    assert "kd" in text
    assert "mine" in text
    assert "student alone" in text


def test_seeds_share_their_order_and_differ_in_initialisation(plan, tmp_path):
    us.study(plan, quiet=True)
    configs = [us.load_config(tmp_path / "study" / "kd" / f"seed-{s}" / "config.yaml") for s in (0, 1)]
    assert [c.seed for c in configs] == [0, 1]
    assert len({c.data.seed for c in configs}) == 1


def test_a_second_study_reuses_what_is_finished_and_gives_the_same_table(plan, monkeypatch):
    first = us.study(plan, quiet=True)
    trained = []
    begin = jobs.begin
    monkeypatch.setattr(
        jobs,
        "begin",
        lambda verb, config, quiet: trained.append(config.output) or begin(verb, config, quiet),
    )
    plan["study"]["seeds"] = [0, 1, 2]
    second = us.study(plan, quiet=True)
    assert len(trained) == 3  # one new seed of the student alone and of both methods
    for old, new in zip(first.table["arms"], second.table["arms"], strict=True):
        assert new["runs"][: len(old["runs"])] == old["runs"]


def test_a_study_that_was_stopped_goes_on(plan, monkeypatch):
    begin, calls = jobs.begin, []

    def stops(verb, config, quiet):
        calls.append(verb)
        if len(calls) == 4:
            raise us.InterruptedRunError
        return begin(verb, config, quiet)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "begin", stops)
        with pytest.raises(us.InterruptedRunError):
            us.study(plan, quiet=True)
    study = us.study(plan, quiet=True)
    assert json.loads((study.path / "study.json").read_text())["verdicts"] == study.table["verdicts"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"teacher": None}, "must have a teacher"), ({"study": {"methods": ["kdd"]}}, "Did you mean 'kd'")],
)
def test_a_wrong_study_is_one_clear_error(plan, change, message):
    with pytest.raises(ValueError, match=message):
        us.study(plan | change, quiet=True)


@pytest.mark.slow
def test_the_demo_ends_in_a_verdict_and_a_report(tmp_path, capsys):
    study = us.demo(str(tmp_path / "demo"))
    out = capsys.readouterr().out
    assert "student alone" in out
    assert any(line in out for line in study.table["verdicts"])
    assert (study.path / "report.html").stat().st_size > 10_000
    teacher = study.table["arms"][0]["runs"][0]["test/acc1"]
    assert teacher > 97
