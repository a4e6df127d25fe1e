"""The training loop: one visible function, and the position from which it can go on exactly."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.config import TrainConfig
from understudy.data.counter import step_seed
from understudy.data.loader import TrainLoader
from understudy.engine.checkpoint import save_checkpoint
from understudy.engine.console import Console
from understudy.engine.distiller import Distiller
from understudy.engine.distributed import OtherProcessError, Ranks, Wishes
from understudy.engine.ema import MovingAverage
from understudy.engine.meters import Meters
from understudy.engine.optim import learning_rate
from understudy.files import append_line, json_line
from understudy.interface import Batch

CHECK_EVERY = 50
"""Steps between two looks at whether the losses are still finite (each look waits for the device)."""


class DivergedError(ValueError):
    """The loss stopped being finite."""


class InterruptedRunError(Exception):
    """The run was asked to stop and has left a checkpoint."""


@dataclass
class Job:
    """What the loop needs."""

    distiller: Distiller
    optimizer: torch.optim.Optimizer
    loader: TrainLoader
    train: TrainConfig
    seed: int
    device: torch.device
    folder: Path
    console: Console
    measure: Callable[[], dict[str, float]] | None = None
    """Accuracy on the images held out of train, as ``{"val/acc1": ...}``; ``None`` if there are none."""
    average: MovingAverage | None = None
    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done within the present epoch."""
    best: dict[str, float] | None = None
    """``{"epoch": ..., "val/acc1": ...}`` of the best epoch so far on the held-out images."""
    meters: dict[str, Any] | None = None
    """Sums of a part of an epoch, out of a checkpoint."""
    seconds: float = 0.0
    """Time trained so far."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set to ask the loop for a checkpoint and an end; on several processes any may ask."""
    wishes: Wishes = field(init=False)
    """What the processes want at the end of a step."""

    def __post_init__(self) -> None:
        self.wishes = Wishes(self.ranks)

    @property
    def ranks(self) -> Ranks:
        """The processes that train together; the first one writes all files."""
        return self.distiller.ranks

    @property
    def checkpoint(self) -> Path:
        """Where the last good state is."""
        return self.folder / "checkpoints" / "last.pt"

    def state(self) -> dict[str, Any]:
        """Returns everything a later process needs to go on exactly."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "model": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "meters": self.meters,
            "best": self.best,
            "seconds": self.seconds,
            "threads": torch.get_num_threads(),
        }

    def save(self) -> None:
        """Writes the checkpoint; of several processes the first does."""
        if self.ranks.is_first:
            save_checkpoint(self.checkpoint, self.state())

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Lends the distiller the weights that are measured and deployed: the moving average, if there is one.

        Collective: all processes are lent the same running statistics.
        """
        with self.average.applied() if self.average is not None else nullcontext():
            self.distiller.share_statistics()
            yield

    def load(self, state: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.distiller.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.meters, self.best, self.seconds = state["meters"], state["best"], state["seconds"]


def fit(job: Job) -> None:
    """Trains to the last epoch, writing a line of metrics and a checkpoint after each.

    Raises:
        DivergedError: a loss is no longer finite; the last good checkpoint is kept.
        InterruptedRunError: ``job.stop`` was set; a checkpoint of this very step is kept.
    """
    steps = job.loader.steps_per_epoch
    job.console.start("training", job.train.epochs * steps, job.epoch * steps + job.step)
    while job.epoch < job.train.epochs:
        active = [t.label for t in job.distiller.terms if t.weight.at(job.epoch) != 0.0]
        meters = Meters(active, job.device)
        if job.meters is not None:
            meters.load_state_dict(job.meters)
        began, first = time.perf_counter(), job.step
        _train_epoch(job, meters)
        trained = time.perf_counter() - began
        job.seconds += trained
        job.epoch, job.step, job.meters = job.epoch + 1, 0, None
        meters.gather()
        line = {"epoch": job.epoch, "lr": job.optimizer.param_groups[0]["lr"], **meters.summary()}
        if job.measure is not None and (
            job.epoch % job.train.eval_every == 0 or job.epoch == job.train.epochs
        ):
            line |= job.measure()
            _keep_best(job, line)
        images = (steps - first) * job.train.batch_size
        line["images_per_second"] = round(images / max(trained, 1e-9), 1)
        if job.ranks.is_first:
            append_line(job.folder / "metrics.jsonl", json_line(line))
        job.save()
        _keep_checkpoint(job)
        job.console.say(_epoch_line(line, job.train.epochs))


def _train_epoch(job: Job, meters: Meters) -> None:
    """Trains the rest of the present epoch."""
    distiller, train = job.distiller, job.train
    steps = job.loader.steps_per_epoch
    parameters = distiller.trainable_parameters()
    saved = time.monotonic()
    distiller.train()
    if job.step == 0:
        distiller.start_epoch()
    for batch in job.loader.epoch(job.epoch, start_step=job.step):
        done = job.epoch * steps + job.step
        torch.manual_seed(
            step_seed(job.seed, done)
        )  # dropout: a function of (seed, step), so resume is exact
        for group in job.optimizer.param_groups:
            group["lr"] = learning_rate(train.schedule, train.optimizer.lr, done, steps, train.epochs)
        _forward_backward(job, batch, meters)
        if train.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        job.optimizer.step()
        job.optimizer.zero_grad(set_to_none=True)
        if job.average is not None:
            job.average.update()
        job.step += 1
        job.console.advance()
        overdue = job.ranks.is_first and time.monotonic() - saved > 60 * train.checkpoint_minutes
        saved = time.monotonic() if overdue else saved
        stopping, late = job.wishes.heard(job.stop.is_set(), overdue)
        if job.step % CHECK_EVERY == 0 or job.step == steps or late or stopping:
            _check_finite(job, meters)
        if (late or stopping) and job.step < steps:
            meters.gather()
            job.meters = meters.state_dict()
            job.save()
        if stopping and job.step < steps:
            raise InterruptedRunError


def _forward_backward(job: Job, batch: Batch, meters: Meters) -> None:
    """Fills the gradients of one batch, in as many parts as ``train.accumulate`` says."""
    shares = job.loader.shares(job.step)  # part -> images of each process
    total = sum(map(sum, shares))
    for i, (part, counts) in enumerate(zip(_parts(batch, shares, job.ranks.rank), shares, strict=True)):
        out = job.distiller(
            part.images, part.target, index=part.index, view=part.view, epoch=job.epoch, counts=counts
        )
        job.distiller.backward(out, last=i == len(shares) - 1, scale=sum(counts) / total)
        meters.add(out.loss, out.terms, out.logits, part.target, out.share.weight)
    meters.add_alignment(dict(job.distiller.alignment))


def _parts(batch: Batch, shares: list[tuple[int, ...]], rank: int) -> Iterator[Batch]:
    if len(shares) == 1:
        yield batch
        return
    sizes = [counts[rank] for counts in shares]
    columns = (batch.images, batch.target, batch.index, batch.view)
    for images, target, index, view in zip(
        *(c.split(sizes) if c is not None else [None] * len(sizes) for c in columns), strict=True
    ):
        yield Batch(images, target, index, view)


def _check_finite(job: Job, meters: Meters) -> None:
    problem = meters.problem()
    if problem is None:
        return
    if not job.ranks.is_first:
        raise OtherProcessError(f"the loss must stay finite, got NaN or infinity in {problem}")
    kept = (
        f"The last good state is {job.checkpoint}"
        if job.checkpoint.exists()
        else "There is no good state yet"
    )
    raise DivergedError(
        f"the loss must stay finite, got NaN or infinity in {problem} in epoch {job.epoch + 1}, by step {job.step}. "
        f"Lower train.optimizer.lr or the term's weight, or set train.clip_norm. {kept}"
    )


def _keep_best(job: Job, line: dict[str, Any]) -> None:
    if job.best is None or line["val/acc1"] > job.best["val/acc1"]:
        job.best = {"epoch": line["epoch"], "val/acc1": line["val/acc1"]}
        with job.measured():
            if job.ranks.is_first:
                save_checkpoint(job.folder / "checkpoints" / "best.pt", {"model": job.distiller.state_dict()})


def _keep_checkpoint(job: Job) -> None:
    """Leaves the measured weights of every so many epochs where :func:`kept_checkpoints` finds them."""
    every = job.train.keep_checkpoints
    if every is not None and job.epoch % every == 0:
        with job.measured():
            if job.ranks.is_first:
                save_checkpoint(
                    job.folder / "checkpoints" / f"epoch-{job.epoch:05d}.pt",
                    {"model": job.distiller.state_dict()},
                )


def kept_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Returns epoch and file of every checkpoint that ``train.keep_checkpoints`` kept in a run folder, by epoch."""
    found = (folder / "checkpoints").glob("epoch-" + "[0-9]" * 5 + ".pt")
    return sorted((int(path.stem.removeprefix("epoch-")), path) for path in found)


def _epoch_line(line: dict[str, Any], epochs: int) -> str:
    text = f"epoch {line['epoch']:>{len(str(epochs))}}/{epochs}"
    text += f"  loss {line['train/loss']:.4f}  train {line['train/acc1']:.2f}%"
    if "val/acc1" in line:
        text += f"  val {line['val/acc1']:.2f}%"
    if "train/conflict" in line:
        text += f"  conflict {line['train/conflict']:.0f}%"
    return f"{text}  {line['images_per_second']:.0f} images/s"


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Turns the first INT or TERM into ``stop``; a second INT interrupts at once, as usual.

    Outside the main thread, where Python allows no handlers, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
