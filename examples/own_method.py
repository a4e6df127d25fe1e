"""A distillation method of your own, in your own script: a frozen dataclass with a head that learns.

    python examples/own_method.py

Takes some seconds on a laptop's CPU. "__main__:Direction" is the import path of the class; in a config file it would be
`name: package.module:Direction`, with the module in the current folder or on PYTHONPATH. All else is as for any method.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import understudy as us


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction(us.Method):
    """One minus the cosine between the teacher's feature and a linear layer on the student's, less some slack."""

    paper: ClassVar[str] = "our own"
    student_taps: ClassVar[tuple[str, ...]] = ("feature",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("feature",)
    slack: float = 0.0  # every field is a setting of the config; of this one, a number, {points: ...} too

    def heads(self, setup: us.Setup) -> nn.ModuleDict:
        """Returns what is trained with the student, saved with a run and never deployed."""
        widths = setup.student.classifier.in_features, setup.guide.classifier.in_features
        return nn.ModuleDict({"project": nn.Linear(*widths)})

    def loss(self, student: us.Outputs, teacher: us.Outputs, batch: us.Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the unweighted loss, one number."""
        cosine = F.cosine_similarity(heads["project"](student["feature"]), teacher["feature"])
        return F.relu(1 - cosine - self.slack).mean()


def train(distiller: us.Distiller, images: Tensor, target: Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.Adam(distiller.trainable_parameters(), lr=0.005)
    for _ in range(epochs):
        for part in torch.randperm(len(target)).split(64):
            optimizer.zero_grad()
            distiller.backward(distiller(images[part], target[part]))
            optimizer.step()
    return distiller.deployable().eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    images, target = (torch.tensor(x) for x in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    teacher, student = (us.create_model(m, 10, in_channels=1) for m in ("cnn_small", "cnn_tiny"))
    train(us.Distiller(teacher, example=images[:2]), images[:1200], target[:1200], epochs=6)
    terms = [{"name": "ce"}, {"name": "__main__:Direction", "weight": 2.0, "slack": 0.05}]
    distiller = us.Distiller(student, teacher, terms, example=images[:2])
    net = train(distiller, images[:200], target[:200], epochs=30)
    print(f"student {100 * (net(images[1200:]).argmax(1) == target[1200:]).float().mean():.1f}%")
