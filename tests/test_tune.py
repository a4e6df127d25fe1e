"""A search: what it may change, that it judges on held-out images alone, goes on where it stopped, ends in a config."""

import csv
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import yaml

import understudy as us
from understudy import trial
from understudy.config import ArmConfig, RangeConfig, TuneConfig
from understudy.data.images import ImageSet
from understudy.methods import METHODS
from understudy.pool import is_held
from understudy.space import Setting, contender
from understudy.study import arm_config

pytest.importorskip("optuna", reason="optuna is not installed (extra tune)")


@pytest.fixture
def plan(digits_config, tmp_path):
    return digits_config | {
        "losses": [{"name": "ce"}, {"name": "kd", "weight": 0.8}],
        "gradients": {},
        "data": {"name": "digits", "limit": 100, "val": 0.3},
        "train": {"epochs": 4, "batch_size": 25, "threads": 1, "device": "cpu"},
        "tune": {"trials": 3, "pruner": "none"},
        "output": str(tmp_path / "tune"),
    }


def contenders(plan, *names):
    config = us.load_config(plan)
    return [contender(arm_config(name, config), config, config.tune or TuneConfig()) for name in names]


def tried(path):
    """Returns the rows of ``trials.csv`` without the times."""
    with (path / "trials.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


# What may be changed


def test_numbers_are_looked_for_where_their_fields_say(plan):
    (dkd,) = contenders(plan, "dkd")
    ranges = {s.key: (s.where.low, s.where.high, s.where.log) for s in dkd.settings}
    assert ranges == {
        "train.optimizer.lr": (0.0125, 0.2, True),  # a quarter to four times the config's 0.05
        "dkd.weight": (0.25, 4.0, True),
        "dkd.alpha": (0.25, 4.0, True),
        "dkd.beta": (0.5, 16.0, True),
        "dkd.temperature": (1.0, 8.0, True),
    }


def test_a_setting_is_set_where_it_stands_and_nothing_else_changes(plan):
    (dkd,) = contenders(plan, "dkd")
    changed = dkd.at({"dkd.weight": 2.5, "dkd.beta": 3.0})
    before, after = (c.model_dump() for c in (dkd.config, changed))
    assert after["losses"][1]["weight"] == before["losses"][1]["weight"] | {"value": 2.5}  # its ramp stays
    assert after["losses"][1]["beta"] == 3.0
    after["losses"] = before["losses"]
    assert after == before


def test_what_is_zero_scheduled_or_the_label_s_stays(plan):
    plan["losses"] = [
        {"name": "ce", "weight": 0.5},
        {"name": "dkd", "alpha": 0.0, "temperature": {"points": [[1, 8.0], [4, 2.0]]}},
    ]
    config = us.load_config(plan)
    arm = arm_config("kd", config).model_copy(update={"losses": config.losses})
    assert [s.key for s in contender(arm, config, TuneConfig()).settings] == [
        "train.optimizer.lr",
        "dkd.beta",
        "dkd.weight",
    ]


def test_a_range_reaches_the_value_as_written(plan):
    plan["losses"][1]["temperature"] = 20.0
    config = us.load_config(plan)
    arm = arm_config("kd", config).model_copy(update={"losses": config.losses})
    found = contender(arm, config, TuneConfig())
    assert found.written() == {"train.optimizer.lr": 0.05, "kd.weight": 0.8, "kd.temperature": 20.0}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.needs_boxes])
def test_every_declared_range_holds_the_default_and_only_values_that_the_method_takes(plan, name):
    plan["losses"] = [{"name": "ce", "label": "label"}, {"name": name}]
    config = us.load_config(plan)
    arm = arm_config("kd", config).model_copy(update={"losses": config.losses})
    found = contender(arm, config, TuneConfig())  # tries every end
    assert found.written().keys() == {s.key for s in found.settings}


def test_the_plan_adds_replaces_and_takes_away(plan):
    plan["tune"]["space"] = {
        "kd.temperature": [1, 2],
        "kd.weight": None,
        "kd++/kd.weight": {"low": 1, "high": 3},
        "gradients.align": ["none", "backbone"],
        "train.batch_size": {"low": 20, "high": 40, "step": 10},
    }
    kd, plus = contenders(plan, "kd", "kd++")
    of = {s.key: s.where for s in kd.settings}
    assert of.keys() == {"train.optimizer.lr", "kd.temperature", "gradients.align", "train.batch_size"}
    assert of["kd.temperature"] == [1, 2]
    assert next(s.where.high for s in plus.settings if s.key == "kd.weight") == 3
    assert kd.at({"train.batch_size": 30, "gradients.align": "backbone"}).train.batch_size == 30


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"kd.temprature": [1, 2]}, "must name what a search may change, got 'kd.temprature'.*kd.temperature"),
        ({"data.val": [0.1, 0.2]}, "tune.space must name what a search may change, got 'data.val'"),
        ({"train.epochs": [1, 2]}, "got 'train.epochs'"),
        ({"kd.temperature": {"low": -1, "high": 2}}, r"losses\[1\] \(kd\).temperature .*got -1"),
        ({"kd.temperature": {"low": 3, "high": 2}}, "a range must have low below high, got 3 and 2"),
        ({"kd.temperature": {"low": 3}}, r"tune.space: kd.temperature.high"),
        ({"gradients.align": ["nearly"]}, "gradients.align"),
    ],
)  # fmt: skip
def test_a_space_that_does_not_hold_is_one_line_before_anything_is_written(plan, tmp_path, space, message):
    plan["tune"]["space"] = space
    with pytest.raises(ValueError, match=message) as error:
        us.tune(plan, quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tune").exists()


def test_a_space_may_be_nested_as_dotted_overrides_write_it(plan):
    config = us.load_config(plan, {"tune.space.kd.temperature": [1, 2], "tune.space.kd.weight.low": 0.1,
                                   "tune.space.kd.weight.high": 2})  # fmt: skip
    assert config.tune is not None
    assert config.tune.space.keys() == {"kd.temperature", "kd.weight"}
    assert us.load_config(yaml.safe_load(config.yaml())) == config


# The search


def test_a_search_ends_in_a_config_that_repeats_its_best_trial(plan, tmp_path, capsys):
    tuned = us.tune(plan, quiet=True)
    trials = tuned.table["trials"]
    assert [t["status"] for t in trials] == ["finished"] * 3
    assert trials[0]["as_written"]
    assert trials[0]["settings"] == {"train.optimizer.lr": 0.05, "kd.weight": 0.8, "kd.temperature": 4.0}
    best = max(trials, key=lambda t: t["val/acc1"])
    assert tuned.table["best"] == best
    said = capsys.readouterr().out
    assert "optimistic" in said
    assert "3 trials" in said
    assert "best of 3" in said
    run = us.distill(tmp_path / "tune" / "best.yaml", quiet=True)
    assert run.metrics["last"]["val/acc1"] == best["val/acc1"]
    assert "test/acc1" in run.metrics["last"]
    assert run.path == tmp_path / "tune" / "best"
    assert not list((tmp_path / "tune" / "trials").glob("*/checkpoints"))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.batch_size": {"low": 16, "high": 64}}, r"tune.space.train.batch_size must have a step"),
        ({"train.batch_size": {"low": 16, "high": 64, "step": 16}}, None),
        ({"kd.temperature": {"low": 1, "high": 8}}, None),
    ],
)
def test_a_range_of_whole_numbers_needs_a_step(plan, space, message):
    config = us.load_config({**plan, "tune": {"space": space}})
    arm = ArmConfig(name="kd", losses=config.losses)
    if message is None:
        assert contender(arm, config, config.tune).settings
    else:
        with pytest.raises(ValueError, match=message):
            contender(arm, config, config.tune)


@pytest.mark.parametrize(("value", "contained"), [(1.0, True), (0.3, True), (0.5, True), (0.55, False)])
def test_steps_of_tenths_meet_their_ends(value, contained):
    setting = Setting("kd.weight", "losses.1.weight", RangeConfig(low=0.1, high=1.0, step=0.1), shared=False)
    assert setting.contains(value) is contained


def test_a_search_without_a_teacher_names_the_command_that_takes_its_config(plan, tmp_path, capsys):
    alone = {**plan, "teacher": None, "losses": [{"name": "ce"}]}
    alone.pop("method", None)
    alone["tune"] = {"trials": 1, "space": {"train.optimizer.lr": [0.01, 0.1]}}
    us.tune(alone, quiet=True)
    best = tmp_path / "tune" / "best.yaml"
    assert f"run it:  understudy train {best}" in capsys.readouterr().out.replace("\n", " ")
    assert best.read_text().startswith("# understudy train best.yaml")
    us.train(best, quiet=True)


def test_no_test_image_is_ever_looked_at(plan, monkeypatch):
    """The teacher, who has no weights here, is trained as blindly as the trials."""
    looked = set()
    init = us.data.loader.EvalLoader.__init__

    def spy(self, images, **options):
        looked.add(len(images))
        init(self, images, **options)

    monkeypatch.setattr(us.data.loader.EvalLoader, "__init__", spy)
    tuned = us.tune(plan, quiet=True)
    data = us.build.read_data(us.load_config(plan).data)
    assert isinstance(data.test, ImageSet)
    assert looked == {len(data.val)}
    assert tuned.table["held_out_images"] == len(data.val)
    for file in tuned.path.rglob("*.json*"):
        assert "test/acc1" not in file.read_text()


def test_a_search_depends_on_its_config_alone(plan, tmp_path):
    first = us.tune(plan, quiet=True)
    second = us.tune(plan | {"output": str(tmp_path / "again")}, quiet=True)
    assert tried(first.path) == tried(second.path)
    other = us.tune(plan | {"output": str(tmp_path / "other"), "seed": 4}, quiet=True)
    assert [t["settings"] for t in other.table["trials"][1:]] != [
        t["settings"] for t in first.table["trials"][1:]
    ]


def test_a_search_that_was_stopped_goes_on_from_the_trial_s_checkpoint(plan, tmp_path, monkeypatch):
    whole = us.tune(plan | {"output": str(tmp_path / "whole")}, quiet=True)
    log = trial.Reporter.log
    with monkeypatch.context() as patch:

        def stops(self, line):
            log(self, line)
            if self._trial.number == 1 and line["epoch"] == 2:
                self._stop.set()  # as a signal does

        patch.setattr(trial.Reporter, "log", stops)
        with pytest.raises(us.InterruptedRunError):
            us.tune(plan, quiet=True)
    assert not (tmp_path / "tune" / "best.yaml").exists()
    assert "interrupted in epoch 3" in (tmp_path / "tune" / "trials" / "0002" / "train.log").read_text()
    for job in (lambda: us.resume(tmp_path / "tune"), lambda: us.distill(plan)):
        with pytest.raises(ValueError, match=r"which holds a search\. Go on with it: understudy tune"):
            job()
    resumed = us.tune(plan, quiet=True)
    assert "resuming after epoch 2, step 1" in (resumed.path / "trials" / "0002" / "train.log").read_text()
    assert tried(resumed.path) == tried(whole.path)


def test_more_trials_go_on_and_another_config_is_refused(plan, monkeypatch):
    first = us.tune(plan, quiet=True)
    plan["tune"]["trials"] = 4
    before = tried(first.path)
    after = tried(us.tune(plan, quiet=True).path)
    assert (after[:3], len(after)) == (before, 4)
    monkeypatch.setattr("understudy.search.run_trial", lambda *_: pytest.fail("a trial was run again"))
    us.tune(plan, quiet=True)
    with pytest.raises(
        ValueError, match=r"must hold the same search, got another value for train.batch_size"
    ):
        us.tune(plan, quiet=True, **{"train.batch_size": 20})


def test_losers_are_stopped_early(plan):
    plan["train"]["epochs"] = 6
    plan["tune"] = {
        "trials": 4,
        "min_epochs": 2,
        "space": {"train.optimizer.lr": [0.05, 1.0e-6], "kd.weight": None, "kd.temperature": None},
    }
    table = us.tune(plan, quiet=True).table
    by_rate = {t["settings"]["train.optimizer.lr"]: (t["status"], t["epochs"]) for t in table["trials"]}
    assert by_rate == {0.05: ("finished", 6), 1e-6: ("stopped", 2)}
    assert f"{table['methods'][0]['stopped']} stopped early" in table["statements"][1]


def test_a_trial_that_diverges_is_noted_and_the_search_goes_on(plan):
    plan["tune"] |= {"trials": 5, "space": {"train.optimizer.lr": [0.05, 1.0e30]}}
    table = us.tune(plan, quiet=True).table
    status = {t["settings"]["train.optimizer.lr"]: t["status"] for t in table["trials"]}
    assert status == {0.05: "finished", 1e30: "diverged"}


def test_a_search_in_which_all_diverge_says_so(plan):
    plan["tune"] |= {"trials": 2, "space": {"train.optimizer.lr": [1.0e30]}}
    with pytest.raises(ValueError, match=r"got 2 that diverged and 0 that were stopped early\. Lower"):
        us.tune(plan, quiet=True)


# The race


def race(plan, **changes):
    plan["losses"] = [{"name": "ce"}]
    plan["train"] |= {"epochs": 9}
    plan["tune"] = {"trials": 7} | changes
    return us.tune(plan, auto=True, quiet=True)


def test_a_race_needs_teacher_student_and_data_alone_and_halves_who_is_left(plan, tmp_path):
    table = race(plan).table
    written = table["trials"][:6]
    assert [t["method"] for t in written] == ["student alone", "kd", "dkd", "dhkd", "kd++", "reviewkd"]
    assert all(t["as_written"] for t in written)
    assert sorted(t["epochs"] for t in written) == [1, 1, 1, 3, 9, 9]  # 6, then 3, then 2
    lines = {
        t["trial"]: [json.loads(x)["val/acc1"] for x in
                     (tmp_path / "tune" / "trials" / f"{t['trial']:04d}" / "metrics.jsonl").read_text().splitlines()]
        for t in written
    }  # fmt: skip
    stopped_first = [lines[t["trial"]][0] for t in written if t["epochs"] == 1]
    went_on = [lines[t["trial"]][0] for t in written if t["epochs"] > 1]
    assert max(stopped_first) <= min(went_on)
    assert sum(row["trials"] for row in table["methods"]) == 7
    assert len(list((tmp_path / "tables").iterdir())) <= 2  # of logits, and of the feature


def test_a_trial_counts_those_that_ask_the_teacher_alike(plan):
    config = us.load_config(plan | {"losses": [{"name": "ce"}, {"name": "kd"}]})
    alone = {"name": "student alone", "losses": [{"name": "ce"}]}
    race = {"methods": [alone, "kd", "dkd", "kd++", "at"]}
    for tune, count in [
        ({}, 20),
        (race, 8),
        ({"methods": ["kd", "at"]}, 10),
        ({"methods": ["kd", alone]}, 10),
    ]:
        assert trial.asking_alike(config, TuneConfig(trials=20, **tune)) == count
    assert trial.asking_alike(config, TuneConfig(trials=2, **race)) == 1


@pytest.mark.slow
def test_a_race_that_was_stopped_decides_the_same(plan, tmp_path, monkeypatch):
    whole = race(plan | {"output": str(tmp_path / "whole")})
    run_trial, calls = sys.modules["understudy.search"].run_trial, []

    def stops(config, number):
        calls.append(number)
        if len(calls) in (4, 8):
            raise us.InterruptedRunError
        return run_trial(config, number)

    monkeypatch.setattr("understudy.search.run_trial", stops)
    for _ in range(2):
        with pytest.raises(us.InterruptedRunError):
            race(plan)
    assert tried(race(plan).path) == tried(whole.path)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["in the last step", "before its result", "killed"])
def test_a_race_that_was_stopped_at_a_decision_decides_the_same(plan, tmp_path, monkeypatch, when):
    whole = race(plan | {"output": str(tmp_path / "whole")})
    log = trial.Reporter.log

    def stops(self, line):
        first = self._trial.number == 1 and line["epoch"] == 1
        if first and when == "in the last step":
            self._stop.set()  # a signal, before it could say that it pauses
        log(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(trial.Reporter, "log", stops)
        if when == "before its result":
            patch.setattr(trial, "conclude_trial", lambda *_: (_ for _ in ()).throw(us.InterruptedRunError))
        if when == "killed":
            patch.setattr(trial, "summary", lambda *_: (_ for _ in ()).throw(us.InterruptedRunError))
        with pytest.raises(us.InterruptedRunError):
            race(plan)
    assert tried(race(plan).path) == tried(whole.path)


@pytest.mark.slow
def test_a_decision_that_was_killed_halfway_is_carried_out(plan, tmp_path, monkeypatch):
    whole = race(plan | {"output": str(tmp_path / "whole")})
    search = sys.modules["understudy.search"]
    with monkeypatch.context() as patch:  # one that is kept is let go on, then the search dies

        def dies(*_):
            raise us.InterruptedRunError

        patch.setattr(search, "conclude_trial", dies)
        with pytest.raises(us.InterruptedRunError):
            race(plan)
    assert tried(race(plan).path) == tried(whole.path)


def test_a_trial_that_trains_and_fails_goes_on_later(plan, tmp_path, monkeypatch):
    plan["tune"] |= {"trials": 4, "space": {"train.optimizer.lr": [0.01, 0.1]}}
    whole = us.tune(plan | {"output": str(tmp_path / "whole")}, quiet=True)
    conclude = trial.conclude_trial

    def full_disk(folder, result):
        if folder.name == "0003":
            raise OSError("no space left on device")
        conclude(folder, result)

    with monkeypatch.context() as patch:
        patch.setattr(trial, "conclude_trial", full_disk)
        with pytest.raises(OSError, match="no space left"):
            us.tune(plan, quiet=True)
    assert tried(us.tune(plan, quiet=True).path) == tried(whole.path)


@pytest.mark.slow
def test_of_several_workers_settings_that_do_not_go_together_do_not_block_the_search(plan):
    plan["data"] |= {"augment": {"name": "resized_crop"}}
    space = {"data.augment.name": ["pad_crop", "resized_crop"], "data.augment.colour": [0.0, 0.4]}
    plan["tune"] |= {"trials": 6, "space": space}
    plan["train"] |= {"epochs": 1}
    refused = 0
    for _ in range(6):
        try:
            tuned = us.tune(plan, workers=2, quiet=True)
        except ValueError:
            refused += 1
        else:
            break
    assert 0 < refused < 6
    assert len(tuned.table["trials"]) == 6 - refused


def test_settings_that_cannot_be_run_do_not_block_the_search(plan):
    plan["tune"] |= {"trials": 4, "space": {"train.batch_size": [25, 5000]}}
    plan["train"]["drop_last"] = True
    with pytest.raises(ValueError, match="drop_last"):
        us.tune(plan, quiet=True)
    for _ in range(3):  # every further trial that cannot be run ends the command once
        with suppress(ValueError):
            us.tune(plan, quiet=True)
    tuned = us.tune(plan, quiet=True)
    assert len(tuned.table["trials"]) < 4
    assert {t["settings"]["train.batch_size"] for t in tuned.table["trials"]} == {25}


FLAT = """
from torch import nn

def teacher(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, 16), nn.ReLU(), nn.Linear(16, num_classes))
"""


def test_of_a_race_who_does_not_fit_the_pair_is_left_out_and_of_a_list_it_is_an_error(
    plan, tmp_path, monkeypatch, capsys
):
    (tmp_path / "flat_networks.py").write_text(FLAT)
    monkeypatch.syspath_prepend(tmp_path)
    plan["teacher"] = {"model": "flat_networks:teacher"}  # which has no maps to review
    plan["train"] |= {"epochs": 1}
    plan["tune"] = {"trials": 6}
    methods = us.tune(plan, auto=True).table["methods"]
    assert {row["name"] for row in methods} == {"student alone", "kd", "dkd", "dhkd", "kd++"}
    assert "reviewkd is left out: " in capsys.readouterr().out
    plan["tune"] = {"methods": ["kd", "reviewkd"]}
    with pytest.raises(ValueError, match="reviewkd"):
        us.tune(plan | {"output": str(tmp_path / "other")}, quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": {"methods": ["kd", "dkd"], "trials": 1}}, "at least one for each of 2 methods, got 1"),
        ({"tune": {"methods": ["kd", "kd"]}}, "names of their own, got 'kd' twice"),
        ({"tune": {"methods": ["kd"]}, "teacher": None}, "must have a teacher to race methods"),
        ({"generations": 2}, "must be of single runs"),
        ({"output": "runs/{a}"}, r"must have a path without \{ for a search"),
        ({"teacher": None, "teachers": {"big": {"model": "cnn_small"}}}, r"teachers\.big must have weights"),
    ],
)
def test_a_plan_that_does_not_hold_is_one_line(plan, changes, message):
    with pytest.raises(ValueError, match=message):
        us.tune(plan | {"losses": [{"name": "ce"}]} | changes, quiet=True)


def test_the_folder_of_a_run_is_not_taken_for_a_searchs(plan, tmp_path):
    run = us.distill({key: value for key, value in plan.items() if key != "tune"}, quiet=True)
    before = sorted(path.name for path in run.path.iterdir())
    with pytest.raises(ValueError, match="which holds a run"):
        us.tune(plan, quiet=True)
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_without_held_out_images_a_tenth_is_taken_and_said(plan, capsys):
    plan["data"] |= {"val": 0.0}
    plan["tune"]["trials"] = 1
    tuned = us.tune(plan)
    assert "data.val was 0: 10% of the training images are held out" in capsys.readouterr().out
    assert tuned.best.data.val == 0.1


def test_without_optuna_one_line_says_how_to_get_it(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"tune must have optuna installed.*pip install '.\[tune\]'"):
        us.tune(plan, quiet=True)


# Processes

COMMAND = (
    "import sys; from understudy.cli import main; sys.argv = ['understudy', 'tune', *sys.argv[1:]]; main()"
)


@pytest.mark.slow
def test_workers_run_the_planned_number_of_trials(plan):
    plan["tune"] = {"trials": 7}
    plan["losses"] = [{"name": "ce"}]
    table = us.tune(plan, auto=True, workers=2, quiet=True).table
    assert [t["trial"] for t in table["trials"]] == list(range(1, 8))
    assert sorted(t["epochs"] for t in table["trials"][:6]) == [1, 1, 1, 4, 4, 4]
    assert table["workers"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_search_goes_on_and_tries_the_same(plan, tmp_path, how):
    plan["train"] |= {"epochs": 30, "checkpoint_minutes": 0.001}
    whole = us.tune(plan | {"output": str(tmp_path / "whole")}, quiet=True)
    config, folder = tmp_path / "tune.yaml", tmp_path / "tune"
    config.write_text(yaml.safe_dump(plan))
    command = [sys.executable, "-c", COMMAND, str(config), "--workers", "2", "-q"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 540
    while not list(folder.glob("trials/0001/metrics.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait(300) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert not (folder / "best.yaml").exists()
    resumed = us.tune(plan, quiet=True)
    assert tried(resumed.path)[0] == tried(whole.path)[0]
    assert [t["status"] for t in resumed.table["trials"]] == ["finished"] * 3
    assert not any(is_held(path) for path in folder.glob("trials/*"))
