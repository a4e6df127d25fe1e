"""A teacher and a dual-head student on digits, trained for seconds, for all analyses of one module."""

import pytest
import torch

import understudy as us
from understudy.analyses.pair import Options, Pair, config_of

TRAIN = {
    "epochs": 3,
    "batch_size": 32,
    "device": "cpu",
    "threads": 1,
    "keep_checkpoints": 1,
    "optimizer": {"lr": 0.05},
    "schedule": {"name": "constant"},
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Trains a run with given changes, once a session for each name; returns its folder."""
    root = tmp_path_factory.mktemp("analyses")
    base = {"seed": 0, "data": {"name": "digits", "limit": 120}, "train": TRAIN}
    teacher = us.train(
        base | {"student": {"model": "cnn_small"}, "output": str(root / "teacher")}, quiet=True
    )
    weights = str(teacher.path / "student.safetensors")
    base |= {
        "student": {"model": "cnn_tiny"},
        "teacher": {"model": "cnn_small", "weights": weights},
    }

    def get(name, verb=us.distill, **changes):
        if not (root / name).exists():
            verb(base | changes | {"output": str(root / name)}, quiet=True)
        return root / name

    return get


@pytest.fixture(scope="session")
def dual(trained):
    """The folder of a DHKD run."""
    losses = [{"name": "ce"}, {"name": "dhkd", "head": "mlp"}]
    return trained("dhkd", losses=losses, gradients={"align": "backbone"})


@pytest.fixture
def pair(dual):
    """The same, loaded."""
    loaded = Pair.load(dual, torch.device("cpu"), config_of(dual, {"train.device": "cpu"}), Options())
    yield loaded
    loaded.distiller.close()
