"""Runs on digits that the export tests share: trained once."""

import pytest

import understudy as us

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A student under a teacher, two epochs each."""
    folder = tmp_path_factory.mktemp("export")
    config = {
        "data": {"name": "digits"},
        "student": {"model": "cnn_small"},
        "train": {
            "epochs": 2,
            "batch_size": 32,
            "threads": 1,
            "device": "cpu",
            "schedule": {"name": "cosine"},
        },
        "output": str(folder / "teacher"),
    }
    teacher = us.train(config, quiet=True)
    config |= {
        "teacher": {"model": "cnn_small", "weights": str(teacher.path / "student.safetensors")},
        "student": {"model": "cnn_tiny"},
        "losses": [{"name": "ce"}, {"name": "kd"}],
        "output": str(folder / "student"),
    }
    return us.distill(config, quiet=True)
