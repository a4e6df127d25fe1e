"""docs/gallery.md is what its script writes, its pictures are there and small, its commands exist."""

import importlib.util
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from understudy.analyses import ANALYSES
from understudy.cli import COMMANDS
from understudy.config import load_config, parse_overrides

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_gallery", DOCS / "make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def commands(script):
    blocks = re.findall(r"```console\n(.*?)```", script.page(), flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_page_is_as_fresh_as_its_texts(script):
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == script.page()


def test_every_picture_is_there_small_and_used(script):
    used = {f"{image}.png" for figure in script.FIGURES for image in figure["images"]}
    assert used == {path.name for path in (DOCS / "gallery").glob("*.png")}
    for name in used:
        path = DOCS / "gallery" / name
        assert path.stat().st_size < 60_000, name
        with Image.open(path) as image:
            assert min(image.size) > 200


def test_every_analysis_is_shown(script):
    page = script.page()
    shown = [name for name in ANALYSES if f"--only {name}" in page]
    assert set(ANALYSES) - set(shown) == {"costs"}  # of a study, which has no other
    assert "analyze runs/study" in page


def test_every_command_names_what_there_is(commands):
    for program, *arguments in commands:
        if program == "python":
            assert (DOCS.parent / arguments[0]).is_file()
            continue
        assert program == "understudy"
        assert arguments[0] in COMMANDS
        for option, value in pairwise(arguments):
            assert option != "--only" or value in ANALYSES


def test_every_configuration_can_be_read(commands, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    for _, verb, *arguments in commands:
        if verb in ("train", "distill", "study"):
            load_config(arguments[0], parse_overrides(arguments[1:]))
