"""Features in the plane: a 2-unit bottleneck in front of a classifier (KD++'s scatter plots)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.report.plots import Cloud, Plot

STEPS = 600
"""Of Adam on all training images at once."""
LEARNING_RATE = 0.02


def embedding(pair: Pair) -> Finding:
    """Returns both networks' features of the test images in the plane, norms and accuracies there."""
    train, test = pair.see("train"), pair.see("test")
    numbers: dict[str, float] = {}
    sheets: dict[str, Sheet] = {}
    plots: list[Plot] = []
    for name in [name for name in ("student", "teacher") if name in test.heads]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            plane = fit_plane(train.heads[name].feature, train.target, len(pair.classes))
        with torch.no_grad():
            points = plane[0](test.heads[name].feature)
            right = plane(test.heads[name].feature).argmax(dim=1) == test.target
        numbers[f"{name}/acc1_2d"] = 100 * float(right.double().mean())
        numbers[f"{name}/norm_2d"] = float(points.norm(dim=1).mean())
        rows: list[list[Value]] = [
            [pair.classes[c], x, y] for c, (x, y) in zip(test.target.tolist(), points.tolist(), strict=True)
        ]
        sheets[name] = Sheet(("class", "x", "y"), rows)
        plots.append(
            Cloud(
                name,
                f"{name.capitalize()}'s features through 2 units",
                points.double().numpy(),
                test.target.numpy(),
                pair.classes,
                centres=_centres(points, test.target, len(pair.classes)).numpy(),
                axes=True,
            )
        )
    note = (
        "The bottleneck (Linear to 2 units, Linear to the classes) is trained on the frozen features of the "
        "training images; the papers train the whole network with it. Stars are class means."
    )
    return Finding(numbers, sheets, tuple(plots), (note,))


def fit_plane(feature: Tensor, target: Tensor, num_classes: int) -> nn.Sequential:
    """Returns a linear layer to two units and a classifier on them, trained on given features with cross-entropy.

    Args:
        feature: ``(N, D)``.
        target: ``(N,)`` class numbers.
        num_classes: C.
    """
    plane = nn.Sequential(nn.Linear(feature.shape[1], 2), nn.Linear(2, num_classes))
    optimizer = torch.optim.Adam(plane.parameters(), lr=LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(plane(feature), target).backward()
            optimizer.step()
    return plane


def _centres(points: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Returns the mean point of every class, NaN where there is none."""
    count = torch.zeros(num_classes, 1, dtype=torch.float64)
    count.index_add_(0, target, torch.ones(len(points), 1, dtype=torch.float64))
    return torch.zeros(num_classes, 2, dtype=torch.float64).index_add_(0, target, points.double()) / count
