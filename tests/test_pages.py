"""README and docs: every block of commands, Python or YAML is run as it stands, or says in the page's source why not.

An HTML comment in front of a block speaks to this file:

- ``<!-- not run: REASON -->``: the block is left out.
- ``<!-- small: KEY=VALUE ... -->``: a config is written to its file with these overrides, so that it takes seconds.

A comment ``<!-- blocks not run: REASON -->`` anywhere in a page leaves out all of its blocks. The blocks of a page are
run in order, in one folder that holds ``path/to/train.parquet``, ``path/to/test.parquet`` and ``some/image.png``. A
YAML block whose first line is a comment with a file's name becomes that file; any other is part of a config, which must
load.
"""

import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import understudy as us
from understudy.cli import main
from understudy.config import build_config, parse_overrides

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SHELL, PYTHON, YAML = {"console", "sh", "bash", "shell"}, {"python", "py"}, {"yaml", "yml"}
BASE = {"data": {"name": "digits"}, "teacher": {"model": "cnn_small"}, "student": {"model": "cnn_tiny"}}
"""What a part of a config is completed with."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    not_run: str | None
    small: str | None


def blocks(page: Path) -> list[Block]:
    """Returns the blocks that could be run."""
    text = page.read_text("utf-8")
    found = []
    for match in re.finditer(r"^ *```(\w+)\n(.*?)^ *```$", text, re.M | re.S):
        if match[1] not in SHELL | PYTHON | YAML:
            assert match[1] in {"math", "text", "json"}, f"{page.name}: unknown language {match[1]}"
            continue
        above = re.search(r"<!-- (not run|small): ([^\n]+?) -->\n+\Z", text[: match.start()])
        said = {above[1]: above[2]} if above else {}
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(line, match[1], match[2], said.get("not run"), said.get("small")))
    return found


def left_out(page: Path) -> str | None:
    """Returns why no block of a page is run, ``None`` if they are."""
    found = re.search(r"<!-- blocks not run: (.+?) -->", page.read_text("utf-8"))
    return None if found is None else found[1]


RUN = [page for page in PAGES if left_out(page) is None and any(not b.not_run for b in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_reason_is_one_and_no_runnable_block_hides_in_an_indent(page):
    text = page.read_text("utf-8")
    reasons = [left_out(page), *(block.not_run for block in blocks(page))]
    assert all(len(reason.split()) >= 4 for reason in reasons if reason is not None)
    outside = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    hidden = [
        line
        for line in outside.splitlines()
        if re.match(r"    (understudy|pip|python|torchrun|[a-z_]+:) ?", line)
    ]
    assert not hidden, "an indented block is not fenced"


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path: Path, num: int) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(i), "path": f"{i}.png"} for i in range(num)], struct)
    pq.write_table(
        pa.table({"image": images, "label": pa.array([i % 3 for i in range(num)], pa.int64())}), path
    )


@pytest.fixture
def folder(tmp_path):
    """What a reader has: images, and the checkout's examples."""
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "some").mkdir()
    parquet(tmp_path / "path" / "to" / "train.parquet", 48)
    parquet(tmp_path / "path" / "to" / "test.parquet", 24)
    (tmp_path / "some" / "image.png").write_bytes(png(99))
    for name in ("docs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run_shell(text: str, folder: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs commands; those of ``understudy`` in this process, which has torch imported already."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["understudy"]:
            execute(["bash", "-euc", line], folder, where)
            continue
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", words)
            patch.setattr(sys, "path", [*sys.path])
            status = None
            try:
                main()
            except SystemExit as end:
                status = end.code
        assert not status, f"{where}: {line}"


def execute(arguments: list[str], folder: Path, where: str) -> None:
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{where}: {done.stderr[-2000:]}"


def write_config(block: Block, folder: Path, where: str) -> None:
    """Writes a config to the file that its first line names, smaller where the page says so; a part is only read."""
    overrides = parse_overrides(block.small.split()) if block.small else {}
    name = re.match(r"# ([\w/.-]+\.ya?ml)\n", block.text)
    values = yaml.safe_load(block.text)
    try:
        if name is None:
            build_config(BASE | values, overrides)
            return
    except ValueError as error:
        pytest.fail(f"{where}: {error}")
    path = folder / name[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)
    config = us.load_config(path)
    if overrides:
        path.write_text(config.replaced(**overrides).yaml())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", RUN, ids=lambda p: p.name)
def test_the_page_does_what_it_says(page, folder, monkeypatch):
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.not_run:
            continue
        if block.language in YAML:
            write_config(block, folder, where)
        elif block.language in PYTHON:
            execute([sys.executable, "-c", block.text], folder, where)
        else:
            run_shell(block.text, folder, where, monkeypatch)
