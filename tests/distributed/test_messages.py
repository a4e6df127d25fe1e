"""What three processes tell each other; every check is a function of `workers/messages.py`."""

import json
import re
from pathlib import Path

import pytest

NAMES = re.findall(r"^def (check_\w+)", (Path(__file__).parent / "workers" / "messages.py").read_text(), re.M)


@pytest.fixture(scope="module")
def found(processes):
    return json.loads(processes("messages.py", world=3)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_messages(name, found):
    assert not found[name], "\n".join(found[name])
