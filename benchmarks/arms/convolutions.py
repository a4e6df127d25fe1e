"""The convolutions of a step alone: the time below which no loop on these kernels can come.

They have the shapes and the layout of the library's step, with what the framework calls for them and nothing else: no
norms, no activations, no losses, no optimiser, no images. Cold: the teacher's forward is among them; warm: it is not.
With the student in bf16 all are, weights included, which a step would have to convert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from understudy.engine.memory import kept_pages

from .networks import Task
from .setting import Setting, Tick


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution of a network, at the size it has in a step."""

    images: Tensor
    weight: Tensor
    options: tuple[Any, ...]
    """Stride, padding, dilation; groups stand beside them."""
    groups: int
    first: bool
    """Whether it reads the images, whose gradient nobody asks for."""

    def forward(self) -> Tensor:
        """Computes the layer."""
        return torch.ops.aten.conv2d(self.images, self.weight, None, *self.options, self.groups)

    def backward(self, out: Tensor) -> None:
        """Computes the gradients of its input and weight; ``out`` stands in for that of its output."""
        stride, padding, dilation = self.options
        torch.ops.aten.convolution_backward(
            out,
            self.images,
            self.weight,
            None,
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            self.groups,
            [not self.first, True, False],
        )


def layers(network: nn.Module, batch: Tensor, dtype: torch.dtype) -> list[Layer]:
    """Returns all convolutions that a batch ``(B, C, H, W)`` passes through, with random inputs of their sizes."""
    found: list[Layer] = []

    def note(module: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        images = torch.randn_like(inputs[0]).to(dtype)  # keeps the memory format
        options = (module.stride, module.padding, module.dilation)
        found.append(Layer(images, module.weight.detach().to(dtype), options, module.groups, not found))

    hooks = [m.register_forward_pre_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        network(batch)
    for hook in hooks:
        hook.remove()
    return found


def step(setting: Setting) -> Callable[[], Tensor]:
    """Returns what computes one step's convolutions, and returns a number of them."""
    task = Task.read(setting)
    size = task.config.train.batch_size
    batch = torch.randn(size, 3, 32, 32, device=task.config.train.device).to(
        memory_format=torch.channels_last
    )
    dtype = torch.bfloat16 if task.config.train.precision == "bf16" else torch.float32
    student = layers(task.student.to(memory_format=torch.channels_last), batch, dtype)  # pyright: ignore[reportCallIssue]
    teacher = layers(task.teacher.to(memory_format=torch.channels_last), batch, dtype)  # pyright: ignore[reportCallIssue]
    backwards = 2 if task.align else 1

    def run() -> Tensor:
        if not setting.warm_steps:
            for layer in teacher:
                layer.forward()
        outs = [layer.forward() for layer in student]
        for _ in range(backwards):
            for layer, out in zip(student[::-1], outs[::-1], strict=True):
                layer.backward(out)
        return outs[-1].mean()

    return run


def convolve(setting: Setting, tick: Tick) -> None:
    """Computes steps for ever."""
    run, train = step(setting), setting.read().train
    with torch.no_grad(), kept_pages(torch.device(train.device)):
        while True:
            tick(run(), train.batch_size)
