"""What is said of the package in several places is the same."""

import re
from pathlib import Path

import yaml

from understudy.methods import METHODS
from understudy.methods.presets import PRESETS

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_version_and_names_what_there_is():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert citation["version"] == version
    for reference in citation["references"]:
        assert reference["authors"]
        named = re.findall(r"[a-z_+]{2,}", reference["notes"].partition("gradient")[0].partition(": ")[2])
        terms = set(named) - {"the", "term", "terms", "and", "presets"}
        assert terms
        assert terms <= METHODS.keys() | PRESETS.keys(), reference["title"]
