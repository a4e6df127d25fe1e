"""Did it help: one budget, paired seeds, finished runs reused."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

import understudy as us
from understudy import guidance
from understudy import run as jobs
from understudy.demo import MARK
from understudy.files import locked
from understudy.methods import METHODS
from understudy.pool import is_held
from understudy.report.published import Published
from understudy.study import folder_name
from understudy.teacher.precision import PrecisionChoice


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


def test_all_runs_have_their_teacher_in_one_precision(plan, monkeypatch):
    """Each would choose by a clock: runs that are compared could have different teachers."""
    asked = []

    def by_turns(module, images):
        asked.append(len(images))
        return PrecisionChoice("bf16" if len(asked) % 2 else "fp32", "")

    monkeypatch.setattr(guidance, "choose_precision", by_turns)
    plan["train"] |= {"precision": "bf16", "epochs": 1}
    study = us.study(plan, quiet=True)
    assert len(asked) == 1
    configs = [us.load_config(file) for file in sorted(study.path.glob("[km]*/seed-*/config.yaml"))]
    assert [config.teacher.precision for config in configs] == ["bf16"] * 4
    (study.path / "kd" / "seed-1" / "result.json").unlink()
    us.study(plan | {"study": plan["study"] | {"seeds": [0]}}, quiet=True)  # what was chosen holds
    assert len(asked) == 1


def test_a_study_compares_every_method_with_the_student_alone_and_with_kd(plan):
    table = us.study(plan, quiet=True).table
    assert [arm["name"] for arm in table["arms"]] == ["teacher", "student alone", "kd", "mine"]
    assert [len(arm["runs"]) for arm in table["arms"]] == [1, 2, 2, 2]
    assert [v.split(":")[0].split(" better")[0].split(" worse")[0] for v in table["verdicts"]]
    text = "\n".join(table["verdicts"])
    assert "kd" in text
    assert "mine" in text
    assert "student alone" in text


def test_an_arm_keeps_all_that_it_says_of_gradients(plan):
    arm = {"name": "twin", "losses": ["ce", "dhkd"], "gradients": {"align": "backbone", "twin": True}}
    arm["losses"] = [{"name": name} for name in arm["losses"]]
    found = us.study(plan, quiet=True, **{"study.methods": [arm], "study.seeds": [0], "train.epochs": 1})
    config = us.load_config(found.path / "twin" / "seed-0" / "config.yaml")
    assert (config.gradients.align, config.gradients.twin) == ("backbone", True)


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
        lambda verb, config, *rest: trained.append(config.output) or begin(verb, config, *rest),
    )
    plan["study"]["seeds"] = [0, 1, 2]
    second = us.study(plan, quiet=True)
    assert len(trained) == 3  # one new seed of the student alone and of both methods
    for old, new in zip(first.table["arms"], second.table["arms"], strict=True):
        assert new["runs"][: len(old["runs"])] == old["runs"]


def test_a_finished_study_needs_no_teacher_any_more(plan, tmp_path):
    plan["study"] = {"methods": ["kd"], "seeds": [0]}
    plan["train"]["epochs"] = 1
    first = us.study(plan, quiet=True)
    weights = first.path / "teacher" / "student.safetensors"
    given = plan | {
        "teacher": plan["teacher"] | {"weights": str(weights.rename(tmp_path / "teacher.safetensors"))},
        "output": str(tmp_path / "given"),
    }
    before = us.study(given, quiet=True)
    (tmp_path / "teacher.safetensors").unlink()
    assert us.study(given, quiet=True).table["arms"] == before.table["arms"]


def test_a_study_that_was_stopped_goes_on(plan, monkeypatch):
    begin, calls = jobs.begin, []

    def stops(verb, config, *rest):
        calls.append(verb)
        if len(calls) == 4:
            raise us.InterruptedRunError
        return begin(verb, config, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "begin", stops)
        with pytest.raises(us.InterruptedRunError):
            us.study(plan, quiet=True)
    study = us.study(plan, quiet=True)
    assert json.loads((study.path / "study.json").read_text())["verdicts"] == study.table["verdicts"]


def scores(table):
    return {arm["name"]: [run["test/acc1"] for run in arm["runs"]] for arm in table["arms"]}


@pytest.mark.slow
def test_workers_give_the_table_of_one_process_and_leave_every_file(plan, tmp_path):
    plan["study"]["seeds"] = [0]
    alone = us.study(plan, quiet=True).table
    together = us.study(plan | {"output": str(tmp_path / "two")}, workers=2, quiet=True)
    assert scores(together.table) == scores(alone)
    assert together.table["verdicts"] == alone["verdicts"]
    files = {file.name for file in together.path.iterdir()}
    assert {"study.json", "table.csv", "runs.csv", "table.md", "table.tex", "report.html", "figures"} <= files
    costs = [run["peak_memory_mib"] for arm in together.table["arms"] for run in arm["runs"]]
    assert all(cost > 50 for cost in costs)  # torch alone takes more


COMMAND = (
    "import sys; from understudy.cli import main; "
    "sys.argv = ['understudy', 'study', sys.argv[1], '--workers', '2', '-q']; main()"
)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_study_goes_on_and_gives_the_same_table(plan, tmp_path, how):
    """Killed while workers train: they end with a checkpoint, and the second start takes nothing twice."""
    plan["train"] |= {"epochs": 30, "checkpoint_minutes": 0.001}
    plan["study"]["seeds"] = [0]
    whole = us.study(plan | {"output": str(tmp_path / "whole")}, quiet=True).table
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(plan))
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(config)], stdin=subprocess.DEVNULL)
    folder = tmp_path / "study"
    deadline = time.monotonic() + 540
    while not list(folder.glob("*/seed-0/metrics.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    status = process.wait(300)
    assert status == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert not (folder / "study.json").exists()
    resumed = us.study(plan, workers=2, quiet=True).table
    assert scores(resumed) == scores(whole)
    assert resumed["verdicts"] == whole["verdicts"]
    assert not any(is_held(path) for path in folder.glob("*/seed-0"))


def test_a_run_that_another_process_holds_is_waited_for(plan, tmp_path):
    plan["study"] = {"methods": ["kd"], "seeds": [0]}
    folder = tmp_path / "study" / "kd" / "seed-0"
    folder.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
         "print('held', flush=True); sys.stdin.read()", str(folder / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    assert is_held(folder)
    timer = threading.Timer(3.0, holder.stdin.close)
    timer.start()
    began = time.monotonic()
    table = us.study(plan, quiet=True).table
    assert time.monotonic() - began >= 2.5
    assert len(scores(table)["kd"]) == 1
    timer.join()
    holder.wait(10)
    holder.stdout.close()


def test_two_studies_do_not_share_a_folder(plan, tmp_path):
    with locked(tmp_path / "study"), pytest.raises(ValueError, match="must have one writer"):
        us.study(plan, quiet=True)


def test_a_diverged_run_counts_without_a_score_and_is_not_run_again(plan, monkeypatch):
    plan["study"] = {
        "methods": ["kd", {"name": "wild", "losses": [{"name": "ce", "weight": 1e30}, {"name": "kd"}]}],
        "seeds": [0, 1],
    }
    table = us.study(plan, quiet=True).table
    assert scores(table)["wild"] == [None, None]
    assert all(value is not None for value in scores(table)["kd"])
    assert "wild: 2 of 2 runs have no score" in table["verdicts"]
    assert not any(line.startswith(("wild better", "wild worse", "wild and")) for line in table["verdicts"])
    monkeypatch.setattr(jobs, "begin", lambda *arguments: pytest.fail("a run was started again"))
    assert us.study(plan, quiet=True).table["verdicts"] == table["verdicts"]


@pytest.mark.slow
def test_what_a_worker_refuses_is_one_line(plan, tmp_path):
    plan["study"] = {"methods": ["kd", "dkd"], "seeds": [0]}
    blocked = tmp_path / "study" / "kd" / "seed-0"
    blocked.mkdir(parents=True)
    (blocked / "somebody's file").write_text("")
    with pytest.raises(
        ValueError, match=r"kd, seed 0: output must be a new or empty folder, got .*seed-0"
    ) as error:
        us.study(plan, workers=2, quiet=True)
    assert "\n" not in str(error.value)


def test_published_numbers_come_with_the_table(plan, monkeypatch):
    known = {"kd": (Published(73.33, "A paper, Table 1"),)}
    monkeypatch.setattr(
        sys.modules["understudy.study"],
        "published",
        lambda *pair: known if pair == ("digits", "cnn_small", "cnn_tiny") else {},
    )
    plan["study"] = {"methods": ["kd"], "seeds": [0]}
    study = us.study(plan, quiet=True)
    assert study.table["arms"][2]["published"] == [{"value": 73.33, "source": "A paper, Table 1"}]
    assert "kd: 73.33 in A paper, Table 1" in (study.path / "report.html").read_text()
    assert "73.33" in (study.path / "table.md").read_text()


@pytest.mark.parametrize("name", ["../../out", "a/b", "<b>x</b>", "🐈 قط", "..", "x" * 300])
def test_a_hostile_arm_stays_in_the_folder(plan, tmp_path, name):
    assert "/" not in folder_name(name)
    assert 0 < len(folder_name(name)) < 80
    assert (tmp_path / folder_name(name)).resolve().parent == tmp_path.resolve()


def test_arms_of_different_names_have_different_folders():
    names = ["a b", "a  b", "a/b", "a-b", "a b ", "🐈", "🐕", "x" * 300, "x" * 301]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names) - 1  # "a b" and "a-b" are alike, and refused together


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["kd", "kd"], "names of their own, got 'kd'"),
        ([{"name": "student alone", "losses": [{"name": "ce"}]}], "names of their own, got 'student alone'"),
        ([{"name": "table.csv", "losses": [{"name": "ce"}]}], "names of their own, got 'table.csv'"),
    ],
)
def test_names_that_are_taken_are_refused(plan, methods, message):
    with pytest.raises(ValueError, match=message):
        us.study(plan | {"study": {"methods": methods}}, quiet=True)


def test_a_folder_of_tables_elsewhere_does_not_make_another_study(plan, tmp_path):
    """Finished runs whose config names another one are taken as they are: it says where, not what."""
    changes = {"study.methods": ["kd"], "study.seeds": [0], "train.epochs": 1}
    before = us.study(plan, quiet=True, **changes, **{"teacher.tables": str(tmp_path / "elsewhere")}).table
    again = us.study(plan, quiet=True, **changes).table
    assert [arm["runs"] for arm in again["arms"]] == [arm["runs"] for arm in before["arms"]]


def test_labels_are_read_alike_by_the_student_alone_the_teacher_and_the_presets(plan, tmp_path):
    losses = [{"name": "ce", "label_smoothing": 0.1}, {"name": "kd"}]
    changes = {"study.methods": ["kd"], "study.seeds": [0], "train.epochs": 1}
    us.study(plan | {"losses": losses}, quiet=True, **changes)
    folder = tmp_path / "study"
    for run in ("teacher", "student-alone/seed-0", "kd/seed-0"):
        terms = {term["name"]: term for term in us.load_config(folder / run / "config.yaml").losses}
        assert terms["ce"]["label_smoothing"] == 0.1, run
    assert terms["ce"]["weight"] == 0.1  # the preset's
    with pytest.raises(
        ValueError, match="got another value for losses"
    ):  # and no run with others is taken for one
        us.study(plan, quiet=True, **changes)


def test_what_an_arm_may_not_have_is_said_before_anything_is_trained(plan, tmp_path):
    arm = {
        "name": "aligned",
        "losses": [{"name": "ce"}, {"name": "dhkd"}],
        "gradients": {"align": "backbone"},
    }
    with pytest.raises(
        ValueError, match=r"gradients\.align must be none or released where train\.compile is on"
    ):
        us.study(plan, quiet=True, **{"study.methods": ["kd", arm], "train.compile": True})
    assert not (tmp_path / "study").exists()


def test_a_study_leaves_the_folder_of_a_run_alone(plan):
    run = us.train(plan, quiet=True, **{"train.epochs": 1})
    before = sorted(path.name for path in run.path.iterdir())
    with pytest.raises(ValueError, match=r"which holds a run\. Choose another output="):
        us.study(plan, quiet=True)
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_methods_of_the_calling_script_need_one_process(plan, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "Own", METHODS["kd"], raising=False)
    plan["study"] = {"methods": [{"name": "own", "losses": [{"name": "__main__:Own"}]}], "seeds": [0]}
    with pytest.raises(ValueError, match=r"able to import every method, got '__main__:Own'"):
        us.study(plan, workers=2, quiet=True)


def test_one_table_for_methods_that_read_different_answers_is_refused_at_once(plan, tmp_path):
    changes = {"study.methods": ["kd", "dkd", "kd++"], "teacher.table": str(tmp_path / "table")}
    with pytest.raises(
        ValueError, match=r"must be auto where .*\(kd: logits, kd\+\+: feature\).*to the folder"
    ):
        us.study(plan, quiet=True, **changes)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": None}, "must have one teacher, got none"),
        ({"study": {"methods": ["kdd"]}}, "Did you mean 'kd'"),
        (
            {"train": {"seeds": [0, 1]}},
            "study must be of single runs, got assistants, generations or train.seeds",
        ),
        ({"generations": 2}, "study must be of single runs"),
        ({"teacher": None, "teachers": {"a": {"model": "cnn_small"}, "b": {"model": "cnn_tiny"}}}, "got 2"),
        ({"study": {"seeds": [0, 0]}}, r"must be different numbers .*, got \[0, 0\]"),
        ({"study": {"seeds": [0, -1]}}, "must be different numbers from 0"),
        (
            {"study": {"metric": "test/acc_1"}},
            "study.metric must be one of test/acc1, test/acc5, got test/acc_1",
        ),
        ({"study": {"methods": [{"name": "mine", "losses": [{"nme": "kd"}]}]}}, "must be a known method"),
        (
            {"study": {"methods": ["ab"]}},
            r"must have a weight within train\.epochs = 2, got 'ce' of weight 1 from epoch 31",
        ),
    ],
)
def test_a_wrong_study_is_one_clear_error(plan, change, message):
    with pytest.raises(ValueError, match=message):
        us.study(plan | change, quiet=True)


def test_a_study_without_test_images_trains_nothing(plan, tmp_path):
    with pytest.raises(ValueError, match="a study must have test images"):
        us.study(plan | {"data": {**plan["data"], "test": False, "val": 0.2}}, quiet=True)
    assert not (Path(plan["output"]) / "teacher").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": {"model": "cnn_small", "weights": "nowhere.safetensors"}}, "nowhere.safetensors"),
        ({"student": {"model": "frcnn_small"}}, "student and teacher must both find objects or neither"),
        (
            {"study": {"methods": ["kd", {"name": "far", "losses": [{"name": "at", "stages": [[1, 9]]}]}]}},
            "stage_9",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(plan, change, message):
    with pytest.raises(ValueError, match=message):
        us.study(plan | change, quiet=True)
    assert not list(Path(plan["output"]).glob("*"))


def test_the_demo_replaces_nothing_but_a_demo(tmp_path):
    theirs = tmp_path / "runs" / "teacher" / "config.yaml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("a run of somebody's")
    with pytest.raises(ValueError, match="must be a new folder or an earlier demo's"):
        us.demo(str(tmp_path / "runs"))
    assert theirs.exists()


@pytest.mark.slow
def test_the_demo_ends_in_a_verdict_and_a_report(tmp_path, capsys):
    study = us.demo(str(tmp_path / "demo"))
    out = capsys.readouterr().out
    assert "student alone" in out
    assert any(line in out for line in study.table["verdicts"])
    assert (study.path / "report.html").stat().st_size > 10_000
    teacher = study.table["arms"][0]["runs"][0]["test/acc1"]
    assert teacher > 97
    assert (study.path / MARK).is_file()  # so that the next demo replaces it
