"""The measured tables: the pages say what the files hold."""

import csv
import importlib.util
from pathlib import Path

import pytest
import yaml

from understudy.config import load_config

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "results").glob("*/study.yaml"))
every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_pages_are_fresh(script):
    assert script.page() == (ROOT / "docs" / "results.md").read_text("utf-8")
    for path in (ROOT / "results").glob("*/README.md"):
        assert script.readme(path.parent) == path.read_text("utf-8"), path


@every_folder
def test_the_config_is_one_and_names_every_arm(folder):
    config = load_config(folder / "study.yaml")
    arms = {entry if isinstance(entry, str) else entry.name for entry in config.study.methods}
    if (folder / "table.csv").is_file():
        assert {row["arm"] for row in rows(folder / "table.csv")} - {"teacher", "student alone"} <= arms


@every_folder
def test_the_table_is_the_mean_of_the_runs(folder):
    if not (folder / "table.csv").is_file():
        pytest.skip(f"{folder.name} has not been run")
    runs = rows(folder / "runs.csv")
    (score,) = (key for key in runs[0] if key.startswith("test/"))
    for row in rows(folder / "table.csv"):
        values = [float(run[score]) for run in runs if run["arm"] == row["arm"] and run[score]]
        assert len(values) == int(row["scores"])
        assert sum(values) / len(values) == pytest.approx(float(row["mean"]), rel=1e-12)


def test_a_row_shows_differences_with_their_intervals(script, tmp_path):
    (tmp_path / "runs.csv").write_text("arm,seed,test/acc1\nkd,0,50.0\n")
    (tmp_path / "table.csv").write_text(
        "arm,model,scores,mean,std,minus_alone,minus_alone_half_width_95,wins_over_alone,seeds_shared_with_alone,"
        "minus_kd,minus_kd_half_width_95,seconds\n"
        "student alone,a,2,50.5,0.707,,,,,,,60\nkd,a,2,50.0,0.1,-0.5,1.25,0,2,,,90\n"
    )
    (tmp_path / "published.yaml").write_text(yaml.safe_dump({"kd": "+1.66"}))
    assert script.table(tmp_path).splitlines() == [
        "|  | model | test top-1, % | n | to student alone | seeds won | minutes a run | published |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| student alone | `a` | 50.50 ± 0.71 | 2 |  |  | 1.0 |  |",
        "| kd | `a` | 50.00 ± 0.10 | 2 | −0.50 ± 1.25 | 0 of 2 | 1.5 | +1.66 |",
    ]
