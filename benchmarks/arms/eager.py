"""A strong plain PyTorch loop of our own: what a good engineer writes in an afternoon, without this library.

The images stay on the device as bytes and are cropped and mirrored a batch at a time; channels-last; one forward and
two `autograd.grad`; projection with list kernels and no host read; fused SGD; bfloat16 by autocast if the config says
so. It has no memory of the teacher, no folding, and no promise about resuming.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: the list kernels have no public name; torch.optim is written with the same ones.

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .networks import Task, library_plan
from .setting import Setting, Tick
from .synthetic import MEAN, STD, images


class Batches:
    """Device-resident images; crops are one gather out of all windows of the padded set, which is a view of it."""

    def __init__(self, setting: Setting, task: Task) -> None:
        self.task, self.data = task, images(setting.images).to(task.config.train.device)
        self.library_views = setting.views == "library"
        padded = F.pad(self.data.images, (4, 4, 4, 4))
        self.windows = padded.unfold(2, 32, 1).unfold(3, 32, 1)  # (N, 3, 9, 9, 32, 32), no copy
        mean, std = (torch.tensor(v, device=padded.device)[:, None, None] for v in (MEAN, STD))
        self.scale, self.shift = 255 * std, mean / std  # (3, 1, 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.task.config.train.batch_size
        for epoch in itertools.count():
            order, view = self._plan(epoch)
            for rows in order.split(size):
                yield self._render(rows, view[rows]), self.data.targets[rows]

    def _plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        if self.library_views:
            return library_plan(self.task.config, self.data, epoch)
        count, device = len(self.data), self.data.device
        return torch.randperm(count, device=device), torch.randint(162, (count,), device=device)

    def _render(self, rows: Tensor, view: Tensor) -> Tensor:
        flip, dy, dx = view // 81, view // 9 % 9, view % 9
        seen = self.windows[rows, :, dy, dx]  # (B, 3, 32, 32)
        seen = torch.where(flip.bool()[:, None, None, None], seen.flip(3), seen)
        return (seen / self.scale - self.shift).contiguous(memory_format=torch.channels_last)


def train(setting: Setting, tick: Tick) -> None:
    """Trains for ever."""
    task = Task.read(setting)
    config = task.config.train
    student = task.student.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    teacher = task.teacher.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    parameters = list(student.parameters())
    optimizer = torch.optim.SGD(
        parameters,
        lr=config.optimizer.lr,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )
    correct = torch.zeros((), dtype=torch.int64, device=config.device)
    for batch, target in Batches(setting, task):
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            with torch.no_grad():
                answers = teacher(batch)
            main, aux = student(batch)
        label = F.cross_entropy(main, target)
        guide = task.weight * binary_kl_norm(aux, answers.float(), task.temperature)
        if task.align:
            write_projected(parameters, label, guide)
        else:
            (label + guide).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        correct += (main.argmax(dim=1) == target).sum()  # stays on the device
        tick((label + guide).detach(), len(target))


def binary_kl_norm(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Returns tau² Σ log cosh((z_s - z_t) / 2 tau), in one stable pass."""
    gap = (student - teacher).abs() / tau
    return tau**2 * (gap / 2 + F.softplus(-gap) - 0.6931471805599453).sum(dim=1).mean()


def write_projected(parameters: list[torch.nn.Parameter], label: Tensor, guide: Tensor) -> None:
    """Fills the gradients with the released projection, in the form (1 + λ) a + b with λ on the device."""
    first = torch.autograd.grad(label, parameters, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(guide, parameters, allow_unused=True)
    reached = [i for i, a in enumerate(first) if a is not None]
    both = [i for i in reached if second[i] is not None]
    a, b = [first[i] for i in reached], [second[i] for i in both]
    products = torch._foreach_mul([first[i] for i in both], b)
    dot = torch.stack([p.sum() for p in products]).sum()
    norm = torch.stack(torch._foreach_norm(a)).square().sum()
    merged = dict(zip(reached, torch._foreach_mul(a, 1 + (-dot).clamp_min(0) / norm), strict=True))
    torch._foreach_add_([merged[i] for i in both], b)
    for i, parameter in enumerate(parameters):
        parameter.grad = merged.get(i, second[i])
