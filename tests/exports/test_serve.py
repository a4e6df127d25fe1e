"""The example that serves an export: no torch, and the answers of `predict`."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import understudy as us
from understudy.exports import export

SERVE = Path(__file__).parents[2] / "examples" / "serve.py"
WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "torchvision", "onnx", "understudy"):
    sys.modules[name] = None  # makes its import fail
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def served(*arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH, SERVE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(line, answer):
    """It says the classes, and their probabilities to a place: a last digit may be rounded the other way."""
    path, _, said = line.partition(": ")
    assert path == str(answer.path)
    assert re.fullmatch(r"(\S+ \d+\.\d%(, |$))+", said)
    names, shares = zip(*(part.split() for part in said.split(", ")), strict=True)
    assert names == tuple(answer.classes)
    assert [float(s.rstrip("%")) for s in shares] == pytest.approx(
        [100 * p for p in answer.probabilities], abs=0.051
    )


@pytest.fixture(scope="module")
def files(digits_run, tmp_path_factory):
    return export(digits_run.path, ["onnx", "int8"], tmp_path_factory.mktemp("served"), quiet=True).files


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A photograph in colour, wide; a high one in grey; one of the network's own size; one turned; 16 bits."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(5)]
    Image.fromarray(random.integers(0, 256, (30, 47, 3), dtype=np.uint8)).save(paths[0])
    Image.fromarray(random.integers(0, 256, (61, 20), dtype=np.uint8)).save(paths[1])
    Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(paths[2])
    turned = Image.fromarray(random.integers(0, 256, (25, 33, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: a quarter turn
    turned.save(paths[3], exif=exif)
    Image.fromarray(random.integers(0, 65536, (12, 9)).astype(np.uint16)).save(paths[4])
    return paths


def test_it_gives_the_classes_and_probabilities_of_predict(digits_run, files, pictures):
    lines = served(files["onnx"], *pictures).splitlines()
    for line, answer in zip(lines, us.predict(digits_run.path, pictures), strict=True):
        check(line, answer)


def test_it_cuts_the_same_centre_out_of_a_larger_image(pictures, tmp_path):
    for part in ("a", "b"):
        for i in range(4):
            (tmp_path / "train" / part).mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng(i + 10 * (part == "b"))
            picture = random.integers(0, 256, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "train" / part / f"{i}.png")
    run = us.train(
        {
            "data": {"name": "imagefolder", "train": str(tmp_path / "train"), "image_size": 12, "resize": 20},
            "student": {"model": "cnn_tiny"},
            "train": {"epochs": 2, "batch_size": 4, "threads": 1, "device": "cpu"},
            "output": str(tmp_path / "run"),
        },
        quiet=True,
    )
    file = export(run.path, ["onnx"], quiet=True).files["onnx"]
    wide, high, *_ = pictures
    lines = served(file, wide, high).splitlines()
    for line, answer in zip(lines, us.predict(run.path, [wide, high]), strict=True):
        check(line, answer)


def test_it_serves_the_quantised_file_alike(files, pictures):
    assert len(served(files["int8"], *pictures).splitlines()) == len(pictures)


def test_without_arguments_it_says_what_it_is():
    assert "python examples/serve.py" in served()
