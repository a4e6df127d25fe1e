"""What all tests share: where the real data sets are."""

from pathlib import Path

import pytest

_DEFAULT = Path(__file__).parents[2] / "shared" / "data"  # beside the checkout


def pytest_addoption(parser):
    parser.addoption(
        "--data", type=Path, default=_DEFAULT, metavar="DIR", help="folder of the real data sets"
    )


@pytest.fixture(scope="session")
def data_root(request) -> Path:
    """The folder of the real data sets; without it the test is skipped."""
    root = request.config.getoption("--data")
    if not root.is_dir():
        pytest.skip(f"no folder {root} of real data sets; give one with --data DIR")
    return root
