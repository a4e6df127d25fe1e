"""Finished runs side by side: arms by method, pairs by seed, and a word where more than the method differs."""

import json
import shutil

import pytest

import understudy as us


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    plan = {
        "data": {"name": "digits", "limit": 60},
        "teacher": {"model": "cnn_small"},
        "student": {"model": "cnn_tiny"},
        "train": {"epochs": 1, "batch_size": 30, "threads": 1, "device": "cpu"},
        "study": {"methods": ["kd"], "seeds": [0, 1]},
        "output": str(folder / "study"),
    }
    us.study(plan, quiet=True)
    us.distill(
        {**plan, "study": None, "method": "dkd", "output": str(folder / "other")},
        quiet=True,
        **{"train.epochs": 2},
    )
    return folder


def test_runs_of_a_study_give_its_table_again(runs):
    known = json.loads((runs / "study" / "study.json").read_text())
    folders = [runs / "study" / arm / f"seed-{seed}" for arm in ("kd", "student-alone") for seed in (0, 1)]
    table = us.compare(folders, quiet=True)
    assert table["verdicts"] == known["verdicts"]
    assert table["notes"] == []
    found = {arm["name"]: [run["test/acc1"] for run in arm["runs"]] for arm in table["arms"]}
    assert found == {arm["name"]: [run["test/acc1"] for run in arm["runs"]] for arm in known["arms"][1:]}


def test_other_test_images_and_a_pretrained_student_are_said(runs, tmp_path):
    folder = tmp_path / "kd"
    shutil.copytree(runs / "study" / "kd" / "seed-1", folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("  test: null", "  test: elsewhere", 1))
    table = us.compare([runs / "study" / "kd" / "seed-0", folder], quiet=True)
    assert [len(arm["runs"]) for arm in table["arms"]] == [2]
    assert table["notes"] == ["The runs differ in data.test, not in the method alone."]
    student = text.index("student:")
    pretrained = text[:student] + text[student:].replace("pretrained: false", "pretrained: true", 1)
    (folder / "config.yaml").write_text(pretrained)
    table = us.compare([runs / "study" / "kd" / "seed-0", folder], quiet=True)
    assert [len(arm["runs"]) for arm in table["arms"]] == [1, 1]
    assert table["notes"] == ["The runs differ in student.pretrained, not in the method alone."]


def test_a_teacher_is_no_student_alone(runs):
    folders = [runs / "study" / name for name in ("teacher", "kd/seed-0", "student-alone/seed-0")]
    table = us.compare(folders, quiet=True)
    assert [arm["name"] for arm in table["arms"]] == ["teacher", "kd", "student alone"]


def test_another_budget_is_said(runs):
    table = us.compare([runs / "study" / "kd" / "seed-0", runs / "other"], quiet=True)
    assert [arm["name"] for arm in table["arms"]] == ["kd", "other"]
    assert table["notes"] == ["The runs differ in train.epochs, not in the method alone."]


def test_runs_under_another_teacher_or_of_other_label_terms_are_another_arm(runs, tmp_path):
    """Seed by seed they look like runs of one arm."""

    def other(name, seed, change):
        folder = tmp_path / name
        shutil.copytree(runs / "study" / name / f"seed-{seed}", folder)
        change(folder)
        return folder

    def replaced(folder):
        result = json.loads((folder / "result.json").read_text())
        result["weights"]["teacher"] = "another file"
        (folder / "result.json").write_text(json.dumps(result))

    def smoothed(folder):
        text = (folder / "config.yaml").read_text()
        assert text.count("label_smoothing: 0.0") == 1
        (folder / "config.yaml").write_text(text.replace("label_smoothing: 0.0", "label_smoothing: 0.2"))

    kd, alone = other("kd", 1, replaced), other("student-alone", 1, smoothed)
    table = us.compare(
        [runs / "study" / "kd" / "seed-0", kd, runs / "study" / "student-alone" / "seed-0", alone], quiet=True
    )
    assert [len(arm["runs"]) for arm in table["arms"]] == [1, 1, 1, 1]
    assert [arm["name"] for arm in table["arms"]] == ["kd", "kd (2)", "student alone", "student alone (2)"]
    assert table["notes"] == ["The runs differ in the weights of teacher, not in the method alone."]


def test_a_folder_for_the_tables_gets_them_and_links_to_the_runs(runs, tmp_path):
    us.compare([runs / "study" / "kd" / "seed-0", runs / "other"], output=tmp_path / "out", quiet=True)
    assert {"study.json", "table.csv", "table.md", "table.tex", "report.html"} <= {
        f.name for f in (tmp_path / "out").iterdir()
    }
    assert "train.epochs" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["study/kd/seed-0"], "at least two run folders, got 1"),
        (["study/kd/seed-0", "nowhere"], "must be given run folders, got .*nowhere"),
        (["study/kd/seed-0", "study/kd/seed-0"], "must differ in their seed"),
    ],
)
def test_what_cannot_be_compared_is_one_line(runs, names, message):
    with pytest.raises(ValueError, match=message):
        us.compare([runs / name for name in names], quiet=True)


def test_neither_a_run_nor_a_study_is_overwritten(runs, tmp_path):
    pair = [runs / "study" / "kd" / "seed-0", runs / "other"]
    for folder in (runs / "study", runs / "other"):
        with pytest.raises(ValueError, match="holds a run or a study"):
            us.compare(pair, output=folder, quiet=True)
    for _ in range(2):  # an earlier comparison may be
        us.compare(pair, output=tmp_path / "again", quiet=True)


def test_an_unfinished_run_is_refused(runs, tmp_path):
    (tmp_path / "config.yaml").write_text((runs / "other" / "config.yaml").read_text())
    (tmp_path / "result.json").write_text(json.dumps({"format": 1, "status": "diverged", "last": {}}))
    with pytest.raises(ValueError, match="finished runs with test images"):
        us.compare([runs / "other", tmp_path], quiet=True)
