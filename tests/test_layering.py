"""Imports point down: nobody imports what stands on top of it."""

import ast
from pathlib import Path

import pytest

import understudy

LAYERS = (
    ("interface", "words", "files", "clock", "widest", "losses", "gradients", "metrics"),
    ("taps", "heads", "models", "data"),
    ("methods",),
    ("teacher", "tasks"),
    ("config",),
    ("engine",),
    ("analysis", "report"),
    ("worlds", "scaling", "smallest"),
    ("recipes",),
    ("build",),
    ("guidance",),
    ("result", "inputs"),
    ("job",),
    ("side_by_side",),
    ("run",),
    ("pool",),
    (
        "analyses",
        "study",
        "tables",
        "predict",
        "exports",
        "init",
        "bench",
        "doctor",
        "costs",
        "listing",
        "space",
        "trial",
    ),
    ("demo", "compare", "search", "reproduce"),
    ("tune",),
    ("cli",),
    ("worker",),
    ("__init__", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOT = Path(understudy.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "understudy":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("understudy."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_points_up(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} has no layer; add it to LAYERS"
    up = {name for name in imported(ast.parse(path.read_text())) if LEVEL[name] > LEVEL[own]}
    assert not up, f"{path.name} ({own}) imports {sorted(up)}, which stand above it"
