"""Everything a benchmark needs, made from seeds: images, labels, and weights to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import nn

from understudy.data import DATASETS, ImageSet
from understudy.data.normalisation import PUBLISHED
from understudy.models import create_model

CLASSES = 100
MEAN, STD = PUBLISHED["cifar100"]
NAME = "synthetic"
"""What the images are called as the library's ``data.name``."""
_CALIBRATION = 4  # batches of 64


def images(count: int) -> ImageSet:
    """Returns ``count`` images of noise, 3 x 32 x 32, with labels of noise: the time of a step depends on neither."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, CLASSES, (count,), generator=generator)
    return ImageSet.read(pixels, targets, [str(c) for c in range(CLASSES)], NAME)


def register(count: int) -> None:
    """Makes ``count`` synthetic images known to the library as a data set like any other."""

    def read() -> tuple[ImageSet, None]:
        """Images of noise."""
        return images(count), None

    cast("dict[str, Any]", DATASETS)[NAME] = read


def write_weights(folder: Path, student: str, teacher: str) -> dict[str, str]:
    """Writes first weights of all networks, so that every arm starts from the same; returns the files by role.

    The teacher's batch norms get the statistics of these images, or its logits would be far from any real teacher's.
    """
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {
        "student": create_model(student, CLASSES),
        "teacher": create_model(teacher, CLASSES),
    }
    width = cast("nn.Linear", networks["student"].fc).in_features
    networks["aux"] = nn.Linear(width, CLASSES)
    for norm in networks["teacher"].modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the mean over all batches seen
    pixels = images(64 * _CALIBRATION).images
    with torch.no_grad():
        for batch in pixels.split(64):
            networks["teacher"]((batch / 255 - 0.45) / 0.27)
    files = {role: str(folder / f"{role}.safetensors") for role in networks}
    for role, network in networks.items():
        save_file(network.state_dict(), files[role])
    return files


def plain_config(
    files: dict[str, str], student: str, teacher: str, threads: int, device: str
) -> dict[str, Any]:
    """Returns the config all comparisons start from: DHKD as released for CIFAR-100, in float32."""
    return {
        "seed": 0,
        "data": {"name": NAME, "mean": list(MEAN), "std": list(STD)},
        "student": {"model": student, "weights": files["student"]},
        "teacher": {"model": teacher, "weights": files["teacher"]},
        "losses": [{"name": "ce"}, {"name": "dhkd", "head": "linear"}],
        "gradients": {"align": "released"},
        "train": {"batch_size": 64, "threads": threads, "device": device},
    }
