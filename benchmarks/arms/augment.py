"""The library's data path alone: order, views, crop, mirror, normalise."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from understudy.build import build, build_job, process
from understudy.engine.console import Console

from .setting import Setting, Tick
from .synthetic import register


def render(setting: Setting, tick: Tick) -> None:
    """Renders training batches for ever."""
    register(setting.images)
    config = setting.read()
    with process(config) as device, TemporaryDirectory(prefix="understudy-benchmark-") as folder:
        job = build_job(build(config, device), Path(folder), Console(quiet=True), device, threading.Event())
        for epoch in itertools.count():
            for batch in job.stream.loader.epoch(epoch):
                tick(batch.images[0, 0, 0, 0], len(batch.target))
