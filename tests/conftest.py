"""What all tests share: where the real data sets are."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
from PIL import Image

for name in ("FORCE_COLOR", "RANK", "WORLD_SIZE", "SLURM_PROCID"):  # of whoever started the tests
    os.environ.pop(name, None)
# Generated examples are the same in every run, and no machine is too slow for them.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")
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


SIZE = (64, 96)  # of pictures with boxes
CATEGORIES = [
    {"id": 3, "name": "disc"},
    {"id": 7, "name": "box"},
]  # with gaps, and not in this order in the file


def _picture(seed, objects=None):
    """A noisy picture and its annotations: category and box."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(110, 12, (*SIZE, 3))
    found = []
    for place in range(int(rng.integers(1, 4)) if objects is None else objects):
        side = int(rng.integers(16, 26))
        left, top = 2 + 32 * place + int(rng.integers(0, 5)), int(rng.integers(2, SIZE[0] - side - 2))
        category = int(rng.choice([3, 7]))
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        if category == 7:
            inside = (x >= left) & (x < left + side) & (y >= top) & (y < top + side)
        else:
            middle = side / 2 - 0.5
            inside = (x - left - middle) ** 2 + (y - top - middle) ** 2 <= (side / 2) ** 2
        pixels[inside] += (110, 60, -60) if category == 7 else (-80, -20, 90)
        found.append((category, [left, top, side, side]))
    return pixels.clip(0, 255).astype(np.uint8), found


def _write(root, splits=(("train", 20), ("val", 6)), seed=0):
    """Writes images and annotations; the last image of a split has no object."""
    for number, (split, count) in enumerate(splits):
        (root / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            pixels, found = _picture(seed + 1000 * number + i, 0 if i == count - 1 else None)
            Image.fromarray(pixels).save(root / split / f"{i:02d}.png")
            images.append({"id": 40 + i, "file_name": f"{i:02d}.png", "width": SIZE[1], "height": SIZE[0]})
            for category, box in found:
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": 40 + i, "category_id": category, "bbox": box,
                        "area": box[2] * box[3], "iscrowd": 0,
                    }
                )  # fmt: skip
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES[::-1]}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def drawn():
    """How pictures of bright rectangles and dark discs are drawn, and written in COCO's format."""
    return SimpleNamespace(picture=_picture, write=_write, size=SIZE, classes=("disc", "box"))
