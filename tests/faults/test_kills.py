"""kill -9 at 25 random moments of a run in two processes: resumed, each ends in the bits of the run never killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "workers" / "kills.py"
KILLS = 25


@pytest.mark.slow
def test_every_killed_run_resumes_to_the_same_bits(tmp_path, table):
    command = [sys.executable, str(WORKER), str(tmp_path), str(KILLS)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=1700, check=False)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    trials = found["trials"]
    assert len(trials) == KILLS
    for trial in trials:
        assert trial["resumed"] == [0, 0], trial
        assert trial["digest"] == found["whole"], trial
        for code, words in zip([c for c in trial["codes"] if c >= 0], trial["survivors"], strict=True):
            assert code == 2
            assert words.count("\n") == 1
            assert "lost connection" in words
    assert {trial["whom"] for trial in trials} == {"first", "second", "both"}
    assert sum(trial["checkpoint"] for trial in trials) >= 5
    table(
        "`kill -9` of one of two processes, or of both, at random moments", KILLS, "resumed to the same bits"
    )
