"""The library's evaluation, a batch a step: what `eval_every` costs."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from understudy.build import build, eval_batches, process
from understudy.engine.evaluate import answers, evaluating
from understudy.interface import Batch

from .setting import Setting, Tick
from .synthetic import register


def evaluate(setting: Setting, tick: Tick) -> None:
    """Measures the student on the training images for ever."""
    register(setting.images)
    config = setting.read()
    with process(config) as device:
        built = build(config, device)
        batches = eval_batches(built.data.train, built, device)
        logits: list[Tensor] = []

        def predict(images: Tensor) -> Tensor:
            logits[:] = [built.distiller.predict(images)]
            return logits[0]

        def ticking() -> Iterator[Batch]:
            for batch in batches:
                yield batch
                tick(logits[0].mean(), len(batch.target))  # `answers` has come back for the next batch

        with evaluating(built.distiller):
            while True:
                answers(predict, ticking())
