"""Every analysis runs on a trained pair and leaves what it promises; what a run lacks is said in one line."""

import csv
import io
import json
import math
import re
from xml.etree import ElementTree

import pytest
from PIL import Image

import understudy as us
from understudy.analyses import ANALYSES
from understudy.analyses.needs import NEEDS

OPTIONS = {
    "epochs": 1,
    "transfer.name": "digits",
    "transfer.limit": 60,
    "sweep.setting": "losses.1.temperature",
    "sweep.values": [1, 4],
    "sweep.epochs": 1,
}
ON_RUNS = [name for name, analysis in ANALYSES.items() if analysis.of == "run"]


ASKED = [name for name in ON_RUNS if ANALYSES[name].asked_only]


@pytest.fixture(scope="module")
def by_itself(dual, tmp_path_factory):
    """What a dual-head run is given without being asked."""
    return us.analyze(dual, out=tmp_path_factory.mktemp("out"), quiet=True)


@pytest.fixture(scope="module")
def found(dual, by_itself):
    """All analyses that a dual-head run allows, the ones that must be named too."""
    out = by_itself.path.parent
    asked = us.analyze(dual, ASKED, out, quiet=True, **OPTIONS)
    return out, {**by_itself.findings, **asked.findings}


@pytest.mark.parametrize("name", [name for name in ON_RUNS if name != "bound"])
def test_the_files_of_an_analysis_say_what_it_found(found, name):
    out, findings = found
    finding = findings[name]
    stored = json.loads((out / f"{name}.json").read_text())
    assert stored["analysis"] == name
    assert finding.numbers
    assert {k for k, v in stored["numbers"].items() if v is not None} == {
        k for k, v in finding.numbers.items() if math.isfinite(v)
    }
    for title, sheet in finding.sheets.items():
        rows = list(csv.reader(io.StringIO((out / f"{name}-{title}.csv").read_text())))
        assert rows[0] == list(sheet.columns)
        assert len(rows) == len(sheet.rows) + 1 > 1
        assert {len(row) for row in rows} == {len(sheet.columns)}
    assert finding.plots
    for plot in finding.plots:
        assert ElementTree.parse(out / f"{name}-{plot.name}.svg").getroot().tag.endswith("svg")
        with Image.open(out / f"{name}-{plot.name}.png") as image:
            assert min(image.size) > 200


def test_what_a_run_lacks_is_left_out_unless_it_was_named(dual, by_itself, tmp_path):
    with pytest.raises(ValueError, match=r"bound must have .* widths 64 and 24\. Analyse a run of srrl"):
        us.analyze(dual, ["bound"], tmp_path / "named", quiet=True)
    assert not (tmp_path / "named").exists()
    assert set(by_itself.refused) == {"bound"}
    assert set(by_itself.findings) == set(ON_RUNS) - {"bound", *ASKED}


def test_the_page_holds_every_analysis_and_what_was_left_out_and_loads_nothing(dual, tmp_path, capsys):
    done = us.analyze(dual, ["confidence", "conflict"], tmp_path, quiet=True)
    assert capsys.readouterr().out == ""
    page = done.path.read_text()
    assert all(f'<section id="{name}">' in page for name in ("confidence", "conflict"))
    assert "http" not in page.replace("http-equiv", "")


def test_numbers_on_a_schedule_are_those_of_the_last_epoch(trained, tmp_path):
    numbers = {"points": [[1, 2.0], [3, 6.0]]}
    losses = [{"name": "ce"}, {"name": "dhkd", "temperature": numbers}, {"name": "dkd", "beta": numbers}]
    run = trained("scheduled", losses=losses)
    found = us.analyze(run, ["gradients", "confidence"], tmp_path, quiet=True).findings
    assert found["confidence"].numbers["beta_of_the_run"] == 6.0
    assert found["gradients"].numbers


def test_a_teacher_that_comes_later_leaves_a_gap_in_the_curve_of_conflict(trained, tmp_path):
    losses = [{"name": "ce"}, {"name": "kd", "weight": {"from_epoch": 2}}]
    found = us.analyze(trained("late", losses=losses), ["conflict"], tmp_path / "found", quiet=True)
    assert found


def test_a_run_without_a_teacher_says_how_to_add_one_and_then_has_it(trained, dual, tmp_path):
    alone = trained("alone", us.train)
    with pytest.raises(
        ValueError, match=r"gradients must have a teacher, got a run without one\. Add teacher"
    ):
        us.analyze(alone, ["gradients"], tmp_path, quiet=True)
    with pytest.raises(
        ValueError, match="conflict must have a run that learns from labels and from a teacher"
    ):
        us.analyze(alone, ["conflict"], tmp_path, quiet=True)
    weights = str(dual.parent / "teacher" / "student.safetensors")
    teacher = {"teacher.model": "cnn_small", "teacher.weights": weights}
    assert us.analyze(alone, ["gradients"], tmp_path, quiet=True, **teacher).findings["gradients"].numbers
    assert "teacher/acc1" not in us.analyze(alone, ["fidelity"], quiet=True).findings["fidelity"].numbers


@pytest.mark.parametrize(
    ("only", "overrides", "message"),
    [
        (["gradient"], {}, "one that there is, got 'gradient'. Did you mean 'gradients'"),
        (["costs"], {}, "costs must be given a study folder, got a run"),
        (["transfer"], {}, "transfer must have other images, got none"),
        (["transfer"], {"transfer.nam": "digits"}, "data.nam"),
        (["sensitivity"], {}, "sensitivity must have a setting and its values"),
        (["sensitivity"], {"sweep.setting": "train.epochs", "sweep.values": [1]}, "a setting of losses"),
        (["sensitivity"], {"sweep.values": 3}, "sweep.values must be a list, got 3"),
        (["sensitivity"], {"sweep.value": [3]}, "got 'value'. Did you mean 'values'"),
        (["difficulty_training"], {"epochs": 0}, "epochs must be a whole number from 1 up, got 0"),
    ],
)
def test_wrong_requests_are_one_line_and_write_nothing(dual, tmp_path, only, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        us.analyze(dual, only, tmp_path / "out", quiet=True, **overrides)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "index.html").exists()


def test_a_folder_that_is_no_finished_run_is_refused(dual, tmp_path):
    with pytest.raises(ValueError, match="a run or study folder"):
        us.analyze(tmp_path, quiet=True)
    (tmp_path / "config.yaml").write_text((dual / "config.yaml").read_text())
    with pytest.raises(ValueError, match="a finished run with checkpoints"):
        us.analyze(tmp_path, quiet=True)


def test_costs_of_a_study_count_what_each_arm_trains_beside_the_student(trained, tmp_path):
    weights = str(trained("alone", us.train).parent / "teacher" / "student.safetensors")
    done = us.study(
        {
            "data": {"name": "digits", "limit": 60},
            "student": {"model": "cnn_tiny"},
            "teacher": {"model": "cnn_small", "weights": weights},
            "train": {"epochs": 1, "batch_size": 32, "device": "cpu"},
            "study": {
                "methods": [
                    {"name": "kd", "losses": [{"name": "ce"}, {"name": "kd"}]},
                    {"name": "two heads", "losses": [{"name": "ce"}, {"name": "dhkd", "head": "linear"}]},
                ],
                "seeds": [0],
            },
            "output": str(tmp_path / "study"),
        },
        quiet=True,
    )
    finding = us.analyze(done.path, quiet=True).findings["costs"]
    rows = {
        row[0]: dict(zip(finding.sheets["arms"].columns, row, strict=True))
        for row in finding.sheets["arms"].rows
    }
    assert rows["kd"]["extra_parameters"] == 0
    assert rows["two heads"]["extra_parameters"] == 24 * 10 + 10
    result = json.loads((done.path / "kd" / "seed-0" / "result.json").read_text())
    assert rows["kd"]["acc1"] == result["last"]["test/acc1"]
    assert rows["kd"]["seconds_an_epoch"] == result["seconds"]
    with pytest.raises(ValueError, match="tsne must be given a run folder, got a study"):
        us.analyze(done.path, ["tsne"], quiet=True)


def test_the_registry_is_whole():
    for name, analysis in ANALYSES.items():
        assert name.isidentifier()
        assert analysis.about.endswith((".", "?"))
        assert analysis.source
        assert analysis.cost
        assert set(analysis.needs) <= set(NEEDS)
