"""The library as a user gets it: a config, `build`, and the real training loop, stopped after every step."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from understudy.build import Built, build, build_job, process
from understudy.config import Config
from understudy.engine.backward import StepOutput
from understudy.engine.console import Console
from understudy.engine.distributed import Ranks
from understudy.engine.loop import fit
from understudy.guidance import attach_answers, settle_precision

from .setting import Setting, Tick, knows
from .synthetic import register


class Beat(Console):
    """A console that calls back where a progress bar would move: once a step, after the optimiser."""

    def __init__(self, beat: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self.beat = beat

    def advance(self) -> None:
        """Calls back."""
        self.beat()


class _AgainError(Exception):
    """The steps that are to be repeated are over."""


def train(setting: Setting, tick: Tick) -> None:
    """Trains for ever, or over the first ``warm_steps`` steps of the first epoch again and again."""
    register(setting.images)
    with TemporaryDirectory(prefix="understudy-benchmark-") as folder:
        config = with_table(setting, Path(folder) / "table")
        with process(config) as device:
            built = build(config, device)
            load_aux(setting, built)
            last = watch(built)
            steps, rehearsing = 0, setting.warm_steps > 0

            def beat() -> None:
                nonlocal steps, rehearsing
                steps += 1
                if not rehearsing:
                    tick(*last())
                if steps == setting.warm_steps:
                    steps, rehearsing = 0, False
                    raise _AgainError

            job = build_job(built, Path(folder), Beat(beat), device, threading.Event())
            built = settle_precision(built, job.stream.loader.image_set, Ranks())
            attach_answers(built, job.stream, Path(folder), Ranks())
            while True:
                with contextlib.suppress(_AgainError):
                    fit(job)
                job.epoch = job.step = 0  # also where a short recipe has come to its end


def with_table(setting: Setting, table: Path) -> Config:
    """Returns the config with a table of its own, empty at the start, so that no other run's answers are found.

    Raises:
        ValueError: the arm is to be warm, and this version of the library remembers nothing.
    """
    config = setting.read()
    if knows(config, "teacher.table"):
        return config.replaced(**{"teacher.table": str(table) if setting.warm_steps else "off"})
    if setting.warm_steps and config.teacher is not None:
        raise ValueError(
            "a warm arm must have a table of answers, got a library without teacher.table. Measure it cold"
        )
    return config


def load_aux(setting: Setting, built: Built) -> None:
    """Gives the auxiliary head of ``dhkd``, if there is one, the same first weights as in the other arms."""
    if setting.aux is not None and "dhkd" in built.distiller.heads:
        heads = cast("nn.ModuleDict", built.distiller.heads["dhkd"])
        heads["aux"].load_state_dict(load_file(setting.aux))


def watch(built: Built) -> Callable[[], tuple[Tensor, int]]:
    """Returns what tells the last step's loss and number of images; the loop itself keeps only sums."""
    seen: list[tuple[Tensor, int]] = [(torch.zeros(()), 0)]

    def look(module: nn.Module, inputs: tuple[Any, ...], out: StepOutput) -> None:
        seen[0] = out.loss.detach(), len(out.logits)

    built.distiller.register_forward_hook(look)
    return lambda: seen[0]
