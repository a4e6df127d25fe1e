"""The training loop: one visible function, and the position from which it can go on exactly."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.config import TrainConfig
from understudy.data.counter import step_seed
from understudy.engine.captured import CapturedSteps
from understudy.engine.checkpoint import load_checkpoint, save_checkpoint
from understudy.engine.console import Console
from understudy.engine.diagnostics import Diagnostics
from understudy.engine.distiller import Distiller
from understudy.engine.distributed import OtherProcessError, Ranks, Wishes
from understudy.engine.divergence import CHECK_EVERY, Finding, SetbackError, Watch, hint
from understudy.engine.ema import MovingAverage
from understudy.engine.memory import give_back
from understudy.engine.meters import Meters
from understudy.engine.optim import learning_rate, prime, take_state
from understudy.engine.sharding import optimizer_state
from understudy.engine.stream import Stream
from understudy.engine.trackers import Tracker
from understudy.files import append_line, json_line, read_json_lines, write_atomic, write_text
from understudy.interface import Batch, Outputs
from understudy.tasks import Task


class InterruptedRunError(Exception):
    """The run was asked to stop and has left a checkpoint."""


@dataclass
class Job:
    """What the loop needs."""

    distiller: Distiller
    optimizer: torch.optim.Optimizer
    stream: Stream
    train: TrainConfig
    seed: int
    device: torch.device
    folder: Path
    console: Console
    measure: Callable[[Job], dict[str, float]] | None = None
    """Scores of a job on the images held out of train, as ``{"val/acc1": ...}``; ``None`` if there are none."""
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
    trackers: list[Tracker] = field(default_factory=list)
    """Who else is told every epoch's line."""
    captured: CapturedSteps | None = None
    """What runs forward and backward passes as one graph, if that was asked for and can be."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """What else the run depends on, for its checkpoints (:mod:`understudy.inputs`)."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set to ask the loop for a checkpoint and an end; on several processes any may ask."""
    wishes: Wishes = field(init=False)
    """What the processes want at the end of a step."""
    watch: Watch = field(init=False)
    """Whether the training goes wrong, and what was done about it."""

    def __post_init__(self) -> None:
        self.wishes = Wishes(self.ranks)
        names = [term.name for term in self.distiller.terms]
        self.watch = Watch(self.train.divergence, self.distiller, hint(names), self.device)

    @property
    def ranks(self) -> Ranks:
        """The processes that train together; the first one writes all files."""
        return self.distiller.ranks

    @property
    def task(self) -> Task:
        """What target, loss and score mean."""
        return self.distiller.task

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return self.stream.loader.steps_per_epoch

    @property
    def checkpoint(self) -> Path:
        """Where the last good state is."""
        return self.folder / "checkpoints" / "last.pt"

    @property
    def good(self) -> Path:
        """The state after the last epoch that nothing was wrong with, where the run may have to go back."""
        return self.folder / "checkpoints" / "good.pt"

    def state(self) -> dict[str, Any]:
        """Returns everything a later process needs to go on exactly; collective with ``train.shard``."""
        distiller, average = self.distiller, self.average
        optimizer = self.optimizer.state_dict()
        if distiller.divided:
            optimizer = optimizer_state(optimizer, distiller.trainable_names(), distiller.whole_state)
        return {
            "epoch": self.epoch,
            "step": self.step,
            "model": distiller.whole_state(),
            "optimizer": optimizer,
            "average": None if average is None else distiller.whole_state(average.state_dict()),
            "meters": self.meters,
            "best": self.best,
            "seconds": self.seconds,
            "threads": torch.get_num_threads(),
            "watch": self.watch.state_dict(),
            "inputs": self.inputs,
        }

    def save(self) -> None:
        """Writes the checkpoint; of several processes the first does, but all must ask for it."""
        if self.ranks.is_first or self.distiller.divided:
            state = self.state()
            if self.ranks.is_first:
                save_checkpoint(self.checkpoint, state)

    def save_measured(self, path: Path) -> None:
        """Writes the weights that are measured, as they are lent by :meth:`measured`; collective."""
        with self.measured():
            model = self.distiller.whole_state()
            if self.ranks.is_first:
                save_checkpoint(path, {"model": model})

    def keep_good(self) -> None:
        """Keeps the last checkpoint as the state to go back to, if there may be a need and it is one."""
        if self.ranks.is_first and self.watch.rewinds and self.step == 0 and self.watch.suspects == 0:
            with self.checkpoint.open("rb") as last:
                write_atomic(self.good, partial(shutil.copyfileobj, last))

    def go_back(self, finding: Finding) -> None:
        """Returns to the last good epoch, with a lower learning rate."""
        history = self.watch.state_dict()
        self.load(self.ranks.first(lambda: load_checkpoint(self.good)))
        self.watch.went_back(finding, history)
        self.save()
        self.keep_good()
        if self.ranks.is_first:
            self.cut_metrics()

    def cut_metrics(self) -> None:
        """Drops the lines of metrics of epochs that are not done."""
        metrics = self.folder / "metrics.jsonl"
        done = range(1, self.epoch + 1)
        lines = [line for line in read_json_lines(metrics) if line.get("epoch") in done]
        write_text(metrics, "".join(json_line(line) + "\n" for line in lines))

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Lends the distiller the weights that are measured and deployed: the moving average, if there is one.

        Collective: all processes are lent the same running statistics.
        """
        with self.average.applied() if self.average is not None else nullcontext():
            self.distiller.share_statistics()
            with self.distiller.assembled():
                yield

    def load(self, state: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        self.epoch, self.step = state["epoch"], state["step"]
        distiller, optimizer = self.distiller, state["optimizer"]
        distiller.take_state(state["model"])
        if distiller.divided:
            optimizer = optimizer_state(optimizer, distiller.trainable_names(), distiller.own_state)
        take_state(self.optimizer, optimizer)
        if self.average is not None:
            self.average.load_state_dict(distiller.own_state(state["average"]))
        self.meters, self.best, self.seconds = state["meters"], state["best"], state["seconds"]
        if "watch" in state:  # there was none before it
            self.watch.load_state_dict(state["watch"])


def fit(job: Job) -> None:
    """Trains to the last epoch, writing a line of metrics and a checkpoint after each.

    Raises:
        DivergedError: a loss is no longer finite; the last good checkpoint is kept.
        InterruptedRunError: ``job.stop`` was set; a checkpoint of this very step is kept.
    """
    for _ in steps(job):
        pass


def steps(job: Job) -> Iterator[None]:
    """Trains as :func:`fit` does, and gives the word back after every step."""
    job.console.start("training", job.train.epochs * job.steps, job.epoch * job.steps + job.step)
    prime(job.optimizer)
    if job.watch.rewinds and not job.ranks.first(job.checkpoint.exists):
        job.save()
    job.keep_good()
    while job.epoch < job.train.epochs:
        try:
            yield from _epoch(job)
        except SetbackError as setback:
            finding = setback.finding
            job.go_back(finding)
            job.console.say(
                f"{finding.must}, got {finding.what} {finding.place()}; back to the end of epoch {job.epoch}, "
                f"learning rate × {job.watch.lr_scale:g}. {job.watch.hint}"
            )


def _epoch(job: Job) -> Iterator[None]:
    """Trains the rest of the present epoch, measures it and writes down what came of it."""
    active = {t.label: w for t in job.distiller.terms if (w := t.weight.at(job.epoch)) != 0.0}
    classes = job.distiller.setup.num_classes
    looks = Diagnostics(job.train.diagnose_every, classes, job.device)
    meters = Meters([*active, *job.task.parts], job.device, classes, looks, job.task)
    if job.meters is not None:
        meters.load_state_dict(job.meters)
    job.watch.start_epoch(active)
    before, first = job.seconds, job.step
    stopping = yield from _train_epoch(job, meters)
    trained = job.seconds - before
    job.epoch, job.step, job.meters = job.epoch + 1, 0, None
    meters.gather()
    line = {"epoch": job.epoch, "lr": job.optimizer.param_groups[0]["lr"], **meters.summary()}
    learning = any("logits" in t.method.student_roles for t in job.distiller.terms if t.label in active)
    said, finding = job.watch.finish_epoch(meters, job.epoch, learning)
    line |= said
    if said:
        job.console.say(f"left out {said['train/skipped']} steps: {job.watch.events[-1]['what']}")
    _settle(job, finding)
    if job.measure is not None and (job.epoch % job.train.eval_every == 0 or job.epoch == job.train.epochs):
        line |= job.measure(job)
        if not (job.watch.rewinds and job.watch.suspects):  # an epoch that may have to be undone
            _keep_best(job, line)
    images = sum(
        map(job.stream.loader.global_batch_size, range(first, job.steps))
    )  # the last one may have fewer
    line["images_per_second"] = round(images / max(trained, 1e-9), 1)
    if job.ranks.is_first:
        append_line(job.folder / "metrics.jsonl", json_line(line))
        for tracker in job.trackers:
            tracker.log(line)
    _keep_checkpoint(job)  # before the state that goes on after this epoch
    job.save()
    job.keep_good()
    give_back()
    job.console.say(_epoch_line(line, job.train.epochs, job.task))
    if stopping and job.epoch < job.train.epochs:
        raise InterruptedRunError


def _train_epoch(job: Job, meters: Meters) -> Generator[None, None, bool]:
    """Trains the rest of the present epoch, a step at a time; returns whether the run is to stop after it."""
    distiller, train = job.distiller, job.train
    parameters = distiller.trainable_parameters()
    saved, stopping = time.monotonic(), False
    distiller.train()
    if job.step == 0:
        distiller.start_epoch()
    while job.step < job.steps:
        began = time.perf_counter()
        batch, answers = job.stream.at(job.epoch, job.step)
        done = job.epoch * job.steps + job.step
        torch.manual_seed(
            step_seed(job.seed, done)
        )  # dropout: a function of (seed, step), so resume is exact
        for group in job.optimizer.param_groups:
            rate = learning_rate(train.schedule, train.optimizer.lr, done, job.steps, train.epochs)
            group["lr"] = rate * job.watch.lr_scale
        job.watch.begin(meters, job.average)
        _forward_backward(job, batch, answers, meters)
        norm = distiller.gradient_norm()
        if train.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, train.clip_norm, norm)
        job.watch.judge(meters, job.stream.loader.global_batch_size(job.step), job.optimizer, norm)
        job.optimizer.step()
        job.optimizer.zero_grad(set_to_none=True)
        if job.average is not None:
            job.average.update()
        job.watch.end()
        job.step += 1
        job.seconds += time.perf_counter() - began
        job.console.advance()
        overdue = job.ranks.is_first and time.monotonic() - saved > 60 * train.checkpoint_minutes
        saved = time.monotonic() if overdue else saved
        stopping, late = job.wishes.heard(job.stop.is_set(), overdue)
        if job.step % CHECK_EVERY == 0 or job.step == job.steps or late or stopping:
            began = time.perf_counter()  # this is where the steps of a GPU are waited for
            finding = job.watch.look(job.epoch, job.step, last=job.step == job.steps)
            job.seconds += time.perf_counter() - began
            _settle(job, finding)
        if (late or stopping) and job.step < job.steps:
            meters.gather()
            job.meters = meters.state_dict()
            job.save()
        if stopping and job.step < job.steps:
            raise InterruptedRunError
        yield
    return stopping


def _forward_backward(job: Job, batch: Batch, answers: Mapping[str, Outputs], meters: Meters) -> None:
    """Fills the gradients of one batch, in as many parts as ``train.accumulate`` says."""
    shares = job.stream.loader.shares(job.step)  # part -> images of each process
    total = sum(map(sum, shares))
    density = job.distiller.density(batch.target)
    looking = meters.diagnostics.due(job.step, job.steps)
    if job.captured is not None and not looking:  # which is not so where a batch has several parts
        out = job.captured(batch, job.epoch, shares[0], answers, density)
        assert out.judged is not None
        meters.add(out.loss, out.terms | out.parts, out.logits, out.judged, out.share.weight)
        meters.add_alignment(dict(job.distiller.alignment))
        return
    stop = 0
    for i, counts in enumerate(shares):
        rows = slice(stop, stop := stop + counts[job.ranks.rank])
        part = batch.each(itemgetter(rows)) if len(shares) > 1 else batch
        known = {
            name: {role: shown[rows] for role, shown in roles.items()} for name, roles in answers.items()
        }
        out = job.distiller(
            **part.inputs,
            epoch=job.epoch,
            counts=counts,
            answers=known,
            density=density,
            seed=torch.initial_seed(),  # which is set anew for every step
        )
        if i == 0 and looking:
            meters.diagnostics.look(out)
        job.distiller.backward(out, last=i == len(shares) - 1, scale=sum(counts) / total)
        assert out.judged is not None
        meters.add(out.loss, out.terms | out.parts, out.logits, out.judged, out.share.weight)
    meters.add_alignment(dict(job.distiller.alignment))


def _settle(job: Job, finding: Finding | None) -> None:
    """Goes on, goes back or ends the run, as its policy says.

    Raises:
        SetbackError: the run must go back.
        DivergedError: it must end.
        OtherProcessError: likewise; the first process says why.
    """
    if finding is None:
        return
    if job.watch.may_rewind():
        raise SetbackError(finding)
    kept = (
        f"The last good state is {job.checkpoint}"
        if job.checkpoint.exists()
        else "There is no good state yet"
    )
    error = job.watch.stopped(finding, kept)
    raise error if job.ranks.is_first else OtherProcessError(f"{finding.must}, got {finding.what}")


def _keep_best(job: Job, line: dict[str, Any]) -> None:
    score = f"val/{job.task.primary}"
    if job.best is None or line[score] > job.best[score]:
        job.best = {"epoch": line["epoch"], score: line[score]}
        job.save_measured(job.folder / "checkpoints" / "best.pt")


def _keep_checkpoint(job: Job) -> None:
    """Leaves the measured weights of every so many epochs where :func:`kept_checkpoints` finds them."""
    every = job.train.keep_checkpoints
    if every is not None and job.epoch % every == 0:
        job.save_measured(job.folder / "checkpoints" / f"epoch-{job.epoch:05d}.pt")


def kept_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Returns epoch and file of every checkpoint that ``train.keep_checkpoints`` kept in a run folder, by epoch."""
    found = (folder / "checkpoints").glob("epoch-" + "[0-9]" * 5 + ".pt")
    return sorted((int(path.stem.removeprefix("epoch-")), path) for path in found)


def _epoch_line(line: dict[str, Any], epochs: int, task: Task) -> str:
    score = task.primary
    text = f"epoch {line['epoch']:>{len(str(epochs))}}/{epochs}"
    text += f"  loss {line['train/loss']:.4f}  train {line[f'train/{task.watched}']:.2f}%"
    if f"val/{score}" in line:
        text += f"  val {line[f'val/{score}']:.2f}%"
    if "train/conflict" in line:
        text += f"  conflict {line['train/conflict']:.0f}%"
    return f"{text}  {line['images_per_second']:.0f} images/s"


class _Handler:
    """What a signal does: the first sets ``stop``, here and in all that this stands in; a second INT interrupts."""

    def __init__(self, stop: threading.Event, around: object) -> None:
        self.stop = stop
        self.around = around if isinstance(around, _Handler) else None
        self.asked = False
        if self.around is not None and self.around.asked:
            self.ask()

    def __call__(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.ask()

    def ask(self) -> None:
        self.asked = True
        self.stop.set()
        if self.around is not None:
            self.around.ask()


@contextmanager
def stopped_by_signals(stop: threading.Event | None = None) -> Iterator[None]:
    """Turns the first INT, TERM or USR1 into ``stop``; a second INT interrupts at once, as usual.

    A batch system announces with TERM or USR1 that it needs the machine (SLURM: ``--signal=USR1@120``).

    One may stand in another, then without an event of its own: a signal is meant for both, and what begins after it is
    stopped from the start. So a job of several runs ends even if the signal comes when one of them has nothing left to
    stop.

    Outside the main thread, where Python allows no handlers, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    handler = _Handler(stop or threading.Event(), before[signal.SIGTERM])
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
