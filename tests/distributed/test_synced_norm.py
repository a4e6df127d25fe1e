"""Batch norms on two processes; every check is a function of `workers/norms.py`."""

import json
import re
from pathlib import Path

import pytest

NAMES = re.findall(r"^def (check_\w+)", (Path(__file__).parent / "workers" / "norms.py").read_text(), re.M)


@pytest.fixture(scope="module")
def found(processes):
    return json.loads(processes("norms.py", world=2)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_synced_norms(name, found):
    assert not found[name], "\n".join(found[name])
