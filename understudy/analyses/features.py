"""Norm and direction of the student's features against the teacher's class means (KD++)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Pair, Seen
from understudy.heads.means import mean_features
from understudy.losses.numerics import unit
from understudy.report.plots import Bars, Curve, Curves, Plot


def features(pair: Pair) -> Finding:
    """Returns mean feature norms, and cosines with the teacher's class means, on the test images."""
    rows: list[list[Value]] = []
    numbers: dict[str, float] = {}
    by_epoch: list[tuple[int, dict[str, float]]] = []
    how, by_class = "", torch.zeros(0)
    for epoch in pair.over_training():
        train, test = pair.see("train"), pair.see("test")
        means = class_means(train, len(pair.classes))
        project, how = projection(pair, train)
        numbers = measure(test, means, project(test.heads["student"].feature))
        by_epoch.append((epoch, numbers))
        rows += [[epoch, name, value] for name, value in numbers.items()]
        by_class = _by_class(test, means, project(test.heads["student"].feature))
    classes: list[list[Value]] = [
        [name, *values] for name, values in zip(pair.classes, by_class.tolist(), strict=True)
    ]
    columns = ("class", "student_norm", "teacher_norm", "student_cosine", "teacher_cosine")
    return Finding(
        numbers,
        {"training": Sheet(("epoch", "number", "value"), rows), "classes": Sheet(columns, classes)},
        _plots(by_epoch, by_class, pair.classes),
        (
            f"Cosines are with the teacher's mean feature of the image's own class, over un-augmented training "
            f"images; the student's feature is compared {how}. Norms are of the features as they are.",
        ),
    )


def class_means(seen: Seen, num_classes: int) -> Tensor:
    """Returns the teacher's mean feature of every class ``(C, D)``."""
    feature = seen.heads["teacher"].feature
    return mean_features([(feature, seen.target)], num_classes, feature.shape[1])


def measure(seen: Seen, means: Tensor, projected: Tensor) -> dict[str, float]:
    """Returns mean norms, the student's over the teacher's, and mean cosines with the own class mean.

    Args:
        seen: the images.
        means: the teacher's class means, ``(C, D)``.
        projected: the student's features in the teacher's space, ``(N, D)``.
    """
    student, teacher = seen.heads["student"].feature, seen.heads["teacher"].feature
    norms = [float(f.norm(dim=1).mean()) for f in (student, teacher)]
    return {
        "student_norm": norms[0],
        "teacher_norm": norms[1],
        "norm_ratio": norms[0] / norms[1],
        "student_cosine": float(_cosines(projected, means, seen.target).mean()),
        "teacher_cosine": float(_cosines(teacher, means, seen.target).mean()),
    }


class _Map(nn.Module):
    """What brings student features ``(N, D_s)`` to the teacher's width, on the device of its weights."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module, self.device = module, device

    @torch.no_grad()
    def forward(self, feature: Tensor) -> Tensor:
        """Returns ``(N, D_t)`` on the CPU."""
        return self.module(feature.to(self.device)).cpu()


def projection(pair: Pair, train: Seen) -> tuple[nn.Module, str]:
    """Returns a map from the student's features to the teacher's, and what it is, in words.

    The run's own projector if it has trained one; nothing for equal widths; else the affine map that fits the teacher's
    features of the training images best, by least squares.
    """
    student, teacher = train.heads["student"].feature, train.heads["teacher"].feature
    for term in pair.distiller.terms:
        heads = pair.distiller.heads[term.label]
        if (
            pair.distiller.replacing is None  # else the feature is the connected one
            and isinstance(heads, nn.ModuleDict)
            and "project" in heads
            and term.method.student_roles == ("feature",)
        ):
            return _Map(
                heads["project"].eval(), pair.device
            ), f"through the projector of the term {term.label}"
    if student.shape[1] == teacher.shape[1]:
        return nn.Identity(), "as it is"
    ones = torch.ones(len(student), 1, dtype=torch.float64)
    fit = torch.linalg.lstsq(
        torch.cat([student.double(), ones], dim=1), teacher.double(), driver="gelsd"
    ).solution
    linear = nn.Linear(student.shape[1], teacher.shape[1])
    with torch.no_grad():
        linear.weight.copy_(fit[:-1].T)
        linear.bias.copy_(fit[-1])
    return _Map(linear, torch.device("cpu")), "after the affine map that fits the teacher's features best"


def _cosines(feature: Tensor, means: Tensor, target: Tensor) -> Tensor:
    return (unit(feature.double()) * unit(means.double())[target]).sum(dim=1)


def _by_class(seen: Seen, means: Tensor, projected: Tensor) -> Tensor:
    """Returns norms and cosines of both networks by class, ``(C, 4)``; NaN for a class without images."""
    student, teacher = seen.heads["student"].feature.double(), seen.heads["teacher"].feature.double()
    values = torch.stack(
        [
            student.norm(dim=1),
            teacher.norm(dim=1),
            _cosines(projected, means, seen.target),
            _cosines(teacher, means, seen.target),
        ],
        dim=1,
    )
    count = torch.zeros(len(means), 1, dtype=torch.float64)
    count.index_add_(0, seen.target, torch.ones(len(values), 1, dtype=torch.float64))
    return torch.zeros(len(means), 4, dtype=torch.float64).index_add_(0, seen.target, values) / count


def _plots(
    by_epoch: list[tuple[int, dict[str, float]]], by_class: Tensor, classes: tuple[str, ...]
) -> tuple[Plot, ...]:
    columns = by_class.T.tolist()
    plots: list[Plot] = [
        Bars(
            "norms",
            "Feature norm by class",
            "norm",
            classes,
            (("student", columns[0]), ("teacher", columns[1])),
        ),
        Bars(
            "directions",
            "Cosine with the teacher's class mean",
            "cosine",
            classes,
            (("student", columns[2]), ("teacher", columns[3])),
        ),
    ]
    if len(by_epoch) > 1:
        epochs = [epoch for epoch, _ in by_epoch]
        for key, title in (("norm", "Feature norm over training"), ("cosine", "Cosine over training")):
            curves = tuple(
                Curve(who, epochs, [numbers[f"{who}_{key}"] for _, numbers in by_epoch])
                for who in ("student", "teacher")
            )
            plots.append(Curves(f"training-{key}", title, "epoch", key, curves))
    return tuple(plots)
