"""Optimisers and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from understudy.config import OptimizerConfig, ScheduleConfig
from understudy.widest import has_float64


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Returns SGD or AdamW; fused, so that a step is one pass over the parameters without a host read.

    Not so on MPS, on which fused kernels have not been tried.
    """
    parameters = list(parameters)
    fused = all(has_float64(parameter.device) for parameter in parameters)
    if config.name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def prime(optimizer: torch.optim.Optimizer) -> None:
    """Gives every momentum its zeros, which make the same first step as none.

    Fused SGD takes either all of them or none: a parameter whose first gradient comes later (a term that starts in a
    later epoch) would end the run. And a first step that is skipped would leave whatever is in new memory.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            if group["momentum"]:
                for parameter in group["params"]:
                    state = optimizer.state[parameter]
                    if state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def take_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimiser's state, each tensor in the memory layout of its parameter.

    It may come from parameters that lay otherwise: divided among processes, or of a run without channels-last.
    """
    optimizer.load_state_dict(state)
    for parameter, own in optimizer.state.items():
        for key, value in own.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                own[key] = laid_out(value, parameter)


def laid_out(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Returns a gradient, or a part of an optimiser's state, in the memory layout of its parameter.

    Fused optimisers go through all of them by address, and `torch.autograd.grad` does not see to it: of a convolution
    that is not channels-last behind one that is, a channels-last gradient would be taken for another one (CPU), or
    refused (CUDA).
    """
    if tensor.layout != torch.strided:  # of a sparse embedding
        return tensor
    ours, theirs = tensor.stride(), parameter.stride()
    if ours == theirs or all(
        a == b or size == 1 for a, b, size in zip(ours, theirs, parameter.shape, strict=True)
    ):
        return tensor
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)


def learning_rate(config: ScheduleConfig, base: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Returns the learning rate of one step.

    Being a function of the step alone, there is no scheduler state to save. ``multistep`` is constant within an epoch;
    ``cosine`` and ``onecycle`` move every step. ``onecycle`` rises linearly for the first 30% (or ``warmup_epochs`` if
    given) and falls as a cosine to ``final_lr``; the momentum is not cycled.

    Args:
        config: kind and numbers.
        base: the highest rate.
        step: 0-based over the whole run.
        steps_per_epoch: length of an epoch.
        epochs: length of the run.
    """
    total = max(1, steps_per_epoch * epochs)
    warmup = config.warmup_epochs * steps_per_epoch
    if config.name == "onecycle" and warmup == 0:
        warmup = 0.3 * total
    if step < warmup:
        return base * (step + 1) / (warmup + 1)
    if config.name == "constant":
        return base
    if config.name == "multistep":
        epoch = step // steps_per_epoch
        return base * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    progress = (step - warmup) / max(1.0, total - warmup)
    return config.final_lr + (base - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
