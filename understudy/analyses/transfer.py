"""Linear probe: what the frozen features are worth on other images (DKD, Table 13)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from understudy.analyses.contract import Finding, NotApplicableError, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.build import read_data
from understudy.data.images import ImageSet
from understudy.data.normalisation import normalise
from understudy.engine.evaluate import evaluating
from understudy.interface import Network
from understudy.report.plots import Bars
from understudy.taps import Taps

EPOCHS, STEP, LEARNING_RATE, BATCH = 40, 10, 0.1, 128
"""DKD's protocol: the rate is divided by 10 after every 10 of 40 epochs; SGD, momentum 0.9, no weight decay."""


def transfer(pair: Pair) -> Finding:
    """Returns test accuracies of a linear classifier on the frozen features of student and teacher."""
    config = pair.options.transfer
    assert config is not None
    data = read_data(config)
    if data.test is None:
        raise NotApplicableError("it needs test images of the other data, got none. Set transfer.test")
    networks: dict[str, Network] = {"student": pair.distiller.network}
    if pair.teacher is not None and "feature" in pair.teacher.shapes:
        networks["teacher"] = pair.teacher
    rows: list[list[Value]] = []
    for name, network in networks.items():
        train, test = (_features(pair, network, images) for images in (data.train, data.test))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            probe = fit_probe(train, data.train.targets, data.num_classes)
        with torch.no_grad():
            right = probe(test).argmax(dim=1) == data.test.targets
        rows.append([name, 100 * float(right.double().mean())])
    numbers = {f"{row[0]}/acc1": float(row[1] or 0) for row in rows}
    plot = Bars(
        "accuracy",
        "Linear probe on the other images, test accuracy, %",
        "%",
        tuple(str(row[0]) for row in rows),
        (("probe", list(numbers.values())),),
    )
    height, width = pair.built.data.image_size
    note = (
        f"{len(data.train):,} training and {len(data.test):,} test images of {config.name}, "
        f"scaled to {height}×{width} where they are of another size (transfer.image_size, transfer.resize) and "
        "normalised as the backbone was trained; features of un-augmented images, computed once; one seed."
    )
    return Finding(numbers, {"probe": Sheet(("backbone", "acc1"), rows)}, (plot,), (note,))


def fit_probe(feature: Tensor, target: Tensor, num_classes: int) -> nn.Linear:
    """Returns a linear classifier trained on features by DKD's protocol.

    Args:
        feature: ``(N, D)``.
        target: ``(N,)`` class numbers.
        num_classes: C.
    """
    probe = nn.Linear(feature.shape[1], num_classes)
    optimizer = torch.optim.SGD(probe.parameters(), lr=LEARNING_RATE, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, STEP, 0.1)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(feature)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(probe(feature[rows]), target[rows]).backward()
                optimizer.step()
            schedule.step()
    return probe


@torch.no_grad()
def _features(pair: Pair, network: Network, images: ImageSet) -> Tensor:
    """Returns the frozen features ``(N, D)`` of other images at the backbone's size, channels and statistics."""
    data = pair.built.data
    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (data.mean, data.std))
    rows = []
    with evaluating(network.module), Taps(network, ["feature"]) as taps:
        size = pair.config.train.eval_batch_size
        parts = (slice(i, min(i + size, len(images))) for i in range(0, len(images), size))
        for block in images.pixels(parts):
            pixels = as_channels(block, data.channels)
            if pixels.shape[2:] != data.image_size:
                pixels = transforms.resize(pixels, list(data.image_size), antialias=True)
            logits = network.module(normalise(pixels, mean, std).to(pair.device))
            rows.append(taps.collect(logits)["feature"].float().cpu())
    return torch.cat(rows)


def as_channels(pixels: Tensor, channels: int) -> Tensor:
    """Returns uint8 images ``(N, C, H, W)`` in grey or in colour, as the backbone wants them."""
    if pixels.shape[1] == channels:
        return pixels
    return transforms.rgb_to_grayscale(pixels) if channels == 1 else pixels.expand(-1, channels, -1, -1)
