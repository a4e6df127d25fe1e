"""Every example runs as it is documented; the integrations check their first step against a plain loop's."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if "__main__" in path.read_text("utf-8"))
NEEDS = {
    "accelerate_loop.py": "accelerate",
    "hugging_face_trainer.py": "accelerate",
    "lightning_module.py": "lightning",
}


def run(path, cwd, *launcher):
    needed = NEEDS.get(path.name, "torch")
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    done = subprocess.run([sys.executable, *launcher, path], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_the_example_runs(path, tmp_path):
    said = run(path, tmp_path)
    assert said.strip()
    if path.name in NEEDS:
        assert "first step: the bits of the plain loop's" in said


@pytest.mark.slow
def test_accelerate_on_two_processes_takes_the_plain_loops_first_step_up_to_rounding(tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    said = run(FOLDER / "accelerate_loop.py", tmp_path, *launcher)
    assert "first step: " in said
    assert "on 2 processes" in said
