"""docs/methods.md and docs/config.md say what the code does: complete, and as fresh as the code."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from understudy.costs import Cost, PairCosts
from understudy.methods import METHODS

DOCS = Path(__file__).parents[1] / "docs"
SCRIPT = DOCS / "make_methods.py"
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def docs():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("make_methods", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_measurements(page):
    return re.sub(r"\*\*Measured\.\*\*.*", "", page)


def nothing_measured():
    return PairCosts(1, 1, 1, dict.fromkeys(METHODS, Cost(0, 0, 1.0)))


@every_method
def test_every_method_has_all_its_texts(docs, name):
    text = docs.TEXTS["methods"][name]
    assert set(text) - {"settings"} == {"kind", "idea", "formula", "legend", "deviations"}
    assert text["kind"] in docs.TEXTS["kinds"]
    assert all(text[key].strip() for key in ("idea", "formula", "legend"))
    assert text["deviations"]
    assert all(line.strip() for line in text["deviations"])


@every_method
def test_every_setting_has_a_meaning_and_no_text_is_of_a_setting_that_is_gone(docs, name):
    fields = {field.name for field in dataclasses.fields(METHODS[name])}
    assert {field for field in fields if not docs.meaning(name, field)} == set()
    assert set(docs.TEXTS["methods"][name].get("settings", {})) <= fields


def test_no_text_is_of_a_method_that_is_gone(docs):
    assert list(docs.TEXTS["methods"]) == sorted(METHODS)
    used = {field.name for method in METHODS.values() for field in dataclasses.fields(method)}
    assert set(docs.TEXTS["settings"]) <= used


def test_the_page_is_fresh_save_for_what_is_measured(docs):
    expected = docs.page(nothing_measured())
    assert without_measurements(docs.PAGE.read_text("utf-8")) == without_measurements(expected)


@every_method
def test_a_section_has_paper_formula_defaults_and_departures(docs, name):
    page = docs.PAGE.read_text("utf-8")
    section = page[page.index(f"\n## {name}\n") :].split("\n## ")[1]
    method = METHODS[name]
    assert method.paper[1:] in section
    assert "```math" in section
    for field in dataclasses.fields(method):
        assert f"| `{field.name}` |" in section
    for line in docs.TEXTS["methods"][name]["deviations"]:
        assert f"\n- {line}" in section


def test_links_within_the_page_lead_somewhere(docs):
    page = docs.PAGE.read_text("utf-8")
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", page, re.M)}
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert set(METHODS) <= links
    assert links <= anchors


def test_every_preset_and_every_published_pair_is_listed_once(docs):
    page = docs.PAGE.read_text("utf-8")
    rows = [
        line
        for line in page.splitlines()
        if re.match(r"\| `[^`]+` \| (CIFAR-100|COCO|ImageNet|segmentation)", line)
    ]
    published = yaml.safe_load((Path(docs.understudy.__file__).parent / "methods/published.yaml").read_text())
    expected = sum(
        1 + len(column.get("pairs", ()))
        for entry in published.values()
        for key, column in entry.items()
        if key != "source"
    )
    assert len(rows) == expected
    assert {line.split("`")[1] for line in rows} == set(published)


def test_a_pairs_published_numbers_reach_its_row(docs):
    page = docs.PAGE.read_text("utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith("| `kd++`") and "→ shufflenet_v1" in line)
    assert "resnet32x4 → shufflenet_v1" in row
    assert "weight 2.5 (ramp 20 from 0)" in row
    assert "dino 1.5" in row


@pytest.mark.slow
def test_the_page_is_fresh_with_what_is_measured():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stale_page_is_said_to_be_stale(docs, tmp_path, monkeypatch):
    stale = tmp_path / "methods.md"
    monkeypatch.setattr(docs, "measure", lambda *_: nothing_measured())
    monkeypatch.setattr(docs, "PAGE", stale)
    monkeypatch.setattr(sys, "argv", ["make_methods.py"])
    docs.main()
    monkeypatch.setattr(sys, "argv", ["make_methods.py", "--check"])
    docs.main()  # fresh: says nothing
    stale.write_text(stale.read_text("utf-8").replace("two", "too", 1), "utf-8")
    with pytest.raises(SystemExit, match="stale"):
        docs.main()


def test_the_page_of_the_config_is_fresh_and_every_key_has_a_meaning():
    done = subprocess.run(
        [sys.executable, DOCS / "make_config.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", (DOCS / "config.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 100
    assert [key for key, meaning in rows if not meaning] == []
