"""What all tests share: where the real data sets are."""

from pathlib import Path

import pytest

_DEFAULT = Path(__file__).parents[2] / "shared" / "data"  # beside the checkout


def pytest_addoption(parser):
    parser.addoption(
        "--data", type=Path, default=_DEFAULT, metavar="DIR", help="folder of the real data sets"
    )
    parser.addoption(
        "--write-reliability", action="store_true", help="write the outcomes of tests/faults into the docs"
    )


@pytest.fixture(scope="session")
def data_root(request) -> Path:
    """The folder of the real data sets; without it the test is skipped."""
    root = request.config.getoption("--data")
    if not root.is_dir():
        pytest.skip(f"no folder {root} of real data sets; give one with --data=DIR")
    return root


@pytest.fixture
def digits_config(tmp_path):
    """A distillation on digits that takes about a second: every kind of term, EMA, held-out images."""
    return {
        "seed": 3,
        "data": {"name": "digits", "limit": 160, "val": 0.1},
        "teacher": {"model": "cnn_small"},
        "student": {"model": "cnn_tiny"},
        "losses": [
            {"name": "ce"},
            {"name": "dhkd", "head": "mlp", "weight": {"value": 0.5, "warmup_epochs": 2}},
        ],
        "gradients": {"align": "backbone"},
        "train": {
            "epochs": 3,
            "batch_size": 32,
            "ema": 0.9,
            "threads": 1,
            "device": "cpu",
            "schedule": {"name": "cosine"},
        },
        "output": str(tmp_path / "run"),
    }
