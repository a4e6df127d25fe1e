"""A small teacher over small images, quick enough to be asked about all views of all of them."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from understudy.data import PadCropFlip
from understudy.data.images import ImageSet
from understudy.data.loader import TrainLoader
from understudy.models import create_model, known_roles
from understudy.taps import describe
from understudy.teacher.assemble import Images, assemble_blocks, open_table
from understudy.teacher.frozen import Teacher

MEAN, STD = (0.5, 0.4, 0.45), (0.25, 0.2, 0.22)


def unsettle(module, seed=0):
    """Gives the batch norms statistics that do something."""
    g = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_(0, 0.3, generator=g)
            m.running_var.uniform_(0.4, 2.0, generator=g)
            if m.affine:
                m.weight.data.uniform_(0.5, 1.5, generator=g)
                m.bias.data.normal_(0, 0.3, generator=g)
    return module


@dataclass
class World:
    """A teacher, its images, and everything made of them."""

    model: Any
    image_set: ImageSet
    images: Images
    teacher: Teacher

    def blocks(self, size=8, dtype="fp32"):
        return assemble_blocks(self.teacher, self.images, self.teacher.roles, size=size, dtype=dtype)

    def table(self, path, size=8, dtype="fp32"):
        return open_table(path, self.blocks(size, dtype), self.model)

    def loader(self, batch_size=10, seed=0, **kwargs):
        return TrainLoader(
            self.image_set,
            self.images.augment,
            batch_size=batch_size,
            seed=seed,
            mean=self.images.mean,
            std=self.images.std,
            **kwargs,
        )


def make_world(
    n=24,
    roles=("logits",),
    pad=1,
    size=8,
    dtype=torch.float32,
    precision="fp32",
    model_seed=0,
    data_seed=0,
    mean=MEAN,
    std=STD,
    classes=10,
):
    g = torch.Generator().manual_seed(data_seed)
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=g)
    targets = torch.arange(n) % classes
    image_set = ImageSet.read(pixels, targets, [str(c) for c in range(classes)], "noise")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model_seed)
        model = unsettle(create_model("cnn_tiny", classes), model_seed).to(dtype)
    network = describe(model, torch.zeros(1, 3, size, size), known=known_roles(model))
    images = Images(image_set, PadCropFlip(pad), mean, std)
    return World(model, image_set, images, Teacher(network, roles, precision))


@pytest.fixture
def world():
    return make_world()


@pytest.fixture
def make():
    return make_world


@pytest.fixture
def unsettled():
    return unsettle
