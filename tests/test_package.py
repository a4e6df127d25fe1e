"""What is said of the package in several places is the same."""

import importlib
import re
import subprocess
import sys
from importlib import metadata
from operator import attrgetter
from pathlib import Path

import pytest
import yaml

import understudy as us
from understudy.cli import COMMANDS, main
from understudy.methods import METHODS
from understudy.methods.presets import PRESETS

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_version_and_names_what_there_is():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == us.__version__
    for reference in citation["references"]:
        assert reference["authors"]
        named = re.findall(r"[a-z_+]{2,}", reference["notes"].partition("gradient")[0].partition(": ")[2])
        terms = set(named) - {"the", "term", "terms", "and", "presets"}
        assert terms
        assert terms <= METHODS.keys() | PRESETS.keys(), reference["title"]


def test_dir_shows_what_is_exported_and_nothing_that_it_is_made_of():
    text = (ROOT / "understudy" / "__init__.pyi").read_text()
    exported = re.findall(r"^from [\w.]+ import \w+ as (\w+)$", text, re.MULTILINE)
    assert len(exported) > 40
    assert dir(us) == sorted(exported)
    assert all(getattr(us, name) is not None for name in exported)


@pytest.mark.parametrize(
    "name", ["bench", "compare", "demo", "doctor", "predict", "reproduce", "study", "tune"]
)
def test_a_function_is_not_hidden_by_the_module_of_its_name(name):
    importlib.import_module(f"understudy.{name}")
    assert callable(getattr(us, name))


def test_help_need_not_wait_for_torch():
    heavy = "{'torch', 'torchvision', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'pandas', 'pyarrow', 'PIL'}"
    code = f"import sys, understudy.cli; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_version_is_said_in_a_checkout_that_is_not_installed(monkeypatch, capsys):
    def nowhere(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nowhere)
    monkeypatch.setattr("sys.argv", ["understudy", "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert capsys.readouterr().out == f"understudy {us.__version__}\n"


OTHERWISE = {
    "init": ["write_config"],
    "list": ["listing.show"],
    "report": ["write_run_report", "write_study_report"],
    "table": ["tables.fill", "tables.info", "tables.verify", "tables.remove"],
}
"""Verbs whose functions have other names."""


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_is_a_documented_python_function(verb):
    reference = (ROOT / "docs" / "reference.md").read_text()
    for name in OTHERWISE.get(verb, [verb]):
        function = attrgetter(name)(us)
        assert callable(function)
        assert function.__doc__
        assert re.search(rf"^::: understudy\.([\w.]+\.)?{name}$", reference, re.MULTILINE), name
