"""CSV, Markdown and LaTeX say the numbers of the study, and no name breaks them."""

import csv
import json
import statistics

import pytest

from understudy.report.summary import arm_lines, verdicts
from understudy.report.text_tables import FILES, shown, write_tables

SCORES = {
    "teacher": [98.0],
    "student alone": [70.0, 70.4, 70.8],
    "kd": [71.0, 71.0, 71.6],
    "mine": [72.5, 72.7, 73.3],
}


def study(scores=SCORES, **extra):
    arms = [
        {
            "name": name,
            "model": "cnn_tiny",
            "method": "ce + kd",
            "parameters": 5618,
            "runs": [
                {
                    "seed": seed,
                    "path": f"{i}/{seed}",
                    "test/acc1": value,
                    "seconds": 10.0 + seed,
                    "peak_memory_mib": 100 + seed,
                    "extra_parameters": 250,
                }
                for seed, value in enumerate(values)
            ],
        }
        for i, (name, values) in enumerate(scores.items())
    ]
    return {
        "format": 1,
        "title": "Did it help?",
        "what": "Four arms.",
        "metric": "test/acc1",
        "arms": arms,
        "verdicts": ["mine is better"],
        **extra,
    }


def rows_of(folder, name):
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_holds_every_number_in_full(tmp_path):
    write_tables(tmp_path, study())
    arms = {row["arm"]: row for row in rows_of(tmp_path, "table.csv")}
    gaps = [a - b for a, b in zip(SCORES["mine"], SCORES["student alone"], strict=True)]
    assert float(arms["mine"]["mean"]) == pytest.approx(statistics.fmean(SCORES["mine"]), rel=1e-12)
    assert float(arms["mine"]["minus_alone"]) == pytest.approx(statistics.fmean(gaps), rel=1e-12)
    half = (
        4.302652729911275 * statistics.stdev(gaps) / 3**0.5
    )  # quantile of Student's t, 2 degrees of freedom
    assert float(arms["mine"]["minus_alone_half_width_95"]) == pytest.approx(half, rel=1e-9)
    assert arms["mine"]["wins_over_kd"] == "3"
    assert (
        arms["kd"]["wins_over_kd"]
        == arms["student alone"]["minus_alone"]
        == arms["teacher"]["minus_alone"]
        == ""
    )
    assert float(arms["mine"]["seconds"]) == 11.0
    assert float(arms["mine"]["peak_memory_mib"]) == 102.0
    assert arms["mine"]["extra_parameters"] == "250.0"
    runs = rows_of(tmp_path, "runs.csv")
    assert [float(row["test/acc1"]) for row in runs] == [
        value for values in SCORES.values() for value in values
    ]


def test_markdown_and_latex_have_a_line_an_arm_and_equally_many_cells(tmp_path):
    write_tables(tmp_path, study())
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(SCORES)
    assert len({line.count("|") for line in table}) == 1
    assert "- mine is better" in lines
    body = [
        line
        for line in (tmp_path / "table.tex").read_text(encoding="utf-8").splitlines()
        if line.endswith("\\\\")
    ]
    assert len(body) == 1 + len(SCORES)
    assert len({line.count("&") for line in body}) == 1
    assert "72.83 $\\pm$ 0.42" in body[-1]


@pytest.mark.parametrize("name", ["a|b", "a & b_c%", "\\input{x}", "a\nb", "=1+1", "$x$ #1 ~^", "<b>🐈</b>"])
def test_names_stay_names(tmp_path, name):
    write_tables(tmp_path, study({**SCORES, name: [1.0, 2.0, 3.0]}))
    assert rows_of(tmp_path, "table.csv")[-1]["arm"].removeprefix("'") == name
    table = [
        line
        for line in (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    plain = [line.replace("\\|", "") for line in table]
    assert len({line.count("|") for line in plain}) == 1
    tex = [
        line
        for line in (tmp_path / "table.tex").read_text(encoding="utf-8").splitlines()
        if line.endswith("\\\\")
    ]
    assert len({line.replace("\\&", "").count("&") for line in tex}) == 1
    assert "\\input" not in tex[-1]


def test_a_spreadsheet_runs_no_name(tmp_path):
    write_tables(tmp_path, study({"=HYPERLINK(1)": [1.0], "@x": [2.0]}))
    assert [row["arm"][0] for row in rows_of(tmp_path, "table.csv")] == ["'", "'"]


def test_columns_that_nobody_fills_are_left_out():
    heads, rows = shown(arm_lines(study({"student alone": [70.0, 71.0]})))
    assert "to kd" not in heads
    assert "published" not in heads
    assert all(len(row) == len(heads) for row in rows)


def test_a_run_that_diverged_says_nothing_of_how_long_runs_take():
    content = study()
    runs = content["arms"][2]["runs"]
    runs[0] |= {"status": "diverged", "test/acc1": None, "seconds": 1.0}
    for run in runs[1:]:
        run["seconds"] = 600.0
    assert arm_lines(content)[2].seconds == 600


def test_published_numbers_stand_beside_ours():
    content = study()
    content["arms"][2]["published"] = [{"value": 73.33, "source": "A"}, {"value": 74.0, "source": "B"}]
    heads, rows = shown(arm_lines(content))
    assert rows[2][heads.index("published")] == "73.33 / 74.00"


def test_the_best_method_speaks_first_and_missing_runs_are_said():
    content = study()
    content["arms"][2]["runs"][1]["test/acc1"] = None
    said = verdicts(arm_lines(content))
    assert said[0].startswith("mine better than student alone by 2.4")
    assert said[1].startswith("kd ")
    assert any(line.startswith("mine") and " kd " in line and "2 seeds" in line for line in said)
    assert said[-1] == "kd: 1 of 3 runs have no score"


def test_every_file_is_written(tmp_path):
    write_tables(tmp_path, json.loads(json.dumps(study())))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FILES)
