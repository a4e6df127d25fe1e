"""The pages of docs/ build into a site without a warning, that needs no network and knows the public surface."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import understudy as us

ROOT = Path(__file__).parents[1]
NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (extra docs)"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_of_docs_is_built(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}


def test_nothing_is_loaded_from_anywhere_else(site):
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?([^\" >]+)", text)
        loaded += re.findall(
            r"<link[^>]* rel=\"?(?:stylesheet|preconnect|icon)\"?[^>]* href=\"?([^\" >]+)", text
        )
        loaded += re.findall(
            r"<link[^>]* href=\"?([^\" >]+)\"?[^>]* rel=\"?(?:stylesheet|preconnect|icon)", text
        )
        loaded += re.findall(r"url\([\"']?([^)\"']+)", text)
        away = [address for address in loaded if re.match(r"(https?:)?//", address)]
        assert not away, (path.name, away)


def test_the_reference_knows_every_public_function_and_class(site):
    page = (site / "reference.html").read_text("utf-8")
    modules = {us: {name: getattr(us, name) for name in dir(us)}} | {
        module: vars(module) for module in (us.losses, us.gradients, us.metrics)
    }
    for module, names in modules.items():
        for name, value in names.items():
            public = callable(value) and not name.startswith("_")
            if public and getattr(value, "__module__", "").startswith("understudy"):
                assert re.search(rf'id="understudy[\w.]*\.{name}"', page), f"{module.__name__}.{name}"


def test_no_notation_of_another_tool_is_left(site):
    for path in site.glob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.S)
        assert not re.search(r":(func|class|meth|math|mod|attr|data):|\.\. math|\$`", text), path.name
