"""The released DHKD loop, written anew: what somebody who runs the authors' script gets.

Kept on purpose: images as PIL objects in the main process, one by one; the teacher as it is, contiguous float32, on
the student's batch; two backwards that retain the graph, each flattened into one vector of all parameters, projected
where they disagree, and copied back; losses and top-k accuracy read on the host in every step; plain SGD. Nothing is
slowed down: `breakdown.py` shows that a step takes as long as its parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from understudy.data import ImageSet, PadCropFlip

from .networks import Task, library_plan
from .setting import Setting, Tick
from .synthetic import MEAN, STD, images


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR class holds them, cropped, mirrored and normalised one by one."""

    def __init__(self, data: ImageSet) -> None:
        self.pixels = data.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, C)
        self.targets = data.targets.tolist()
        self.augment: Callable[[Image.Image], Image.Image] = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        )
        self.finish: Callable[[Image.Image], Tensor] = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )
        self.view: Tensor | None = None
        """``(N,)`` the view of every image, where the library's are to be seen instead of random ones."""

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """Returns one view of an image and its label."""
        image = Image.fromarray(self.pixels[i])
        seen = self.augment(image) if self.view is None else _crop(image, self.view[i])
        return self.finish(seen), self.targets[i]


class Released:
    """The script's parts, one method each, so that each can be timed alone."""

    def __init__(self, setting: Setting) -> None:
        self.task = Task.read(setting)
        self.student, self.teacher = self.task.student.train(), self.task.teacher
        self.parameters = list(self.student.parameters())
        wanted = self.task.config.train.optimizer
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=wanted.lr, momentum=wanted.momentum, weight_decay=wanted.weight_decay
        )
        self.data = images(setting.images)
        self.dataset = PilImages(self.data)
        self.library_views = setting.views == "library"
        self.device = torch.device(self.task.config.train.device)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images and labels, epoch after epoch."""
        size = self.task.config.train.batch_size
        for epoch in itertools.count():
            if self.library_views:
                order, self.dataset.view = library_plan(self.task.config, self.data, epoch)
                loader = DataLoader(self.dataset, size, sampler=order.tolist())
            else:
                loader = DataLoader(self.dataset, size, shuffle=True)
            for batch, target in loader:
                yield batch.to(self.device), target.to(self.device)

    def ask(self, batch: Tensor) -> Tensor:
        """Returns the teacher's logits."""
        with torch.no_grad():
            return self.teacher(batch)

    def losses(self, main: Tensor, aux: Tensor, answers: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cross-entropy and weighted BinaryKL-Norm, the latter with the released clamp."""
        tau = self.task.temperature
        odds = torch.sigmoid((aux - answers) / tau).clamp(1e-8, 1 - 1e-8)
        divergence = 0.5 * torch.log(0.5 / odds) + 0.5 * torch.log(0.5 / (1 - odds))
        return F.cross_entropy(main, target), self.task.weight * tau**2 * divergence.sum(dim=1).mean()

    def differentiate(self, loss: Tensor) -> Tensor:
        """Returns the gradient of all parameters as one vector, zeros where a loss does not reach."""
        self.optimizer.zero_grad()
        loss.backward(retain_graph=True)
        return torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad.clone()).flatten() for p in self.parameters]
        )

    def project(self, label: Tensor, guide: Tensor) -> Tensor:
        """Returns the sum of both vectors, the teacher's without its part against the label's."""
        dot = torch.dot(guide, label)
        if dot < 0:  # read on the host, as released
            guide = guide - dot / label.norm() ** 2 * label
        return label + guide

    def write(self, merged: Tensor) -> None:
        """Copies a vector back into the parameters' gradients."""
        first = 0
        for parameter in self.parameters:
            parameter.grad = merged[first : first + parameter.numel()].view_as(parameter).clone()
            first += parameter.numel()

    def record(self, losses: Iterable[Tensor], main: Tensor, target: Tensor) -> list[float]:
        """Returns losses, top-1 and top-5 accuracy as numbers on the host."""
        hits = main.topk(5, dim=1).indices.eq(target[:, None])  # (B, 5)
        accuracy = [hits[:, :k].any(dim=1).float().mean().item() * 100 for k in (1, 5)]
        return [loss.item() for loss in losses] + accuracy

    def step(self, batch: Tensor, target: Tensor) -> Tensor:
        """Trains on one batch and returns its loss."""
        answers = self.ask(batch)
        main, aux = self.student(batch)
        label, guide = self.losses(main, aux, answers, target)
        if self.task.align:
            self.write(self.project(self.differentiate(label), self.differentiate(guide)))
        else:
            self.optimizer.zero_grad()
            (label + guide).backward()
        self.optimizer.step()
        self.record((label, guide), main, target)
        return (label + guide).detach()


def train(setting: Setting, tick: Tick) -> None:
    """Trains for ever."""
    arm = Released(setting)
    for batch, target in arm.batches():
        tick(arm.step(batch, target), len(target))


def _crop(image: Image.Image, view: Tensor) -> Image.Image:
    """Returns the library's view of an image, cut by Pillow."""
    dy, dx, flip = (int(v) for v in PadCropFlip().offsets(view))
    seen = ImageOps.expand(image, border=4).crop((dx, dy, dx + 32, dy + 32))
    return ImageOps.mirror(seen) if flip else seen
