"""One job in its folder: opened, taken up where it stands, concluded."""

from __future__ import annotations

import shlex
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.build import Built, FirstEpoch, build, build_job, data_seed, eval_batches
from understudy.config import Config, agrees, differences, load_config
from understudy.engine.checkpoint import load_checkpoint, previous_of
from understudy.engine.console import Console
from understudy.engine.distributed import Ranks
from understudy.engine.divergence import DivergedError
from understudy.engine.ema import MovingAverage
from understudy.engine.loop import InterruptedRunError, Job
from understudy.engine.memory import reset_peak
from understudy.engine.trackers import open_trackers
from understudy.files import is_temporary, locked, read_json, sweep, write_json, write_text
from understudy.guidance import attach_answers, settle_precision
from understudy.inputs import changed, inputs, weight_files
from understudy.methods.term import build_terms, judging_terms, label_terms
from understudy.report import write_run_report
from understudy.result import count_parameters, environment, finish, headline, summary

DATABASE = "study.db"
"""File of a search's folder: Optuna's study, in SQLite."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    path: Path
    config: Config
    """As it was run, every automatic choice made."""
    student: nn.Module
    """The plain module to ship, in eval mode."""
    metrics: dict[str, Any]
    """The content of ``result.json``."""


def open_job(
    held: ExitStack,
    config: Config,
    stored: Config | None,
    device: torch.device,
    stop: threading.Event,
    quiet: bool,
    first: tuple[Job, Built] | None = None,
    prefix: str = "",
    runs: int = 1,
) -> tuple[Job, Built]:
    """Builds a job and claims its folder.

    Of several processes the first one alone knows the folder; what it reads there it sends to the others.

    Args:
        held: is given what must be closed at the end, the console among it.
        config: as the user wrote it.
        stored: as it was run before, if it is being resumed.
        device: to train on.
        stop: see :class:`understudy.engine.loop.Job`.
        quiet: print nothing.
        first: a job in lockstep with this one, whose batches, teachers and automatic choices it shares.
        prefix: of what is said.
        runs: how many jobs with the same views share the teachers' tables.
    """
    check_begins(config)
    folder, ranks = Path(config.output), Ranks()
    wanted, data, stream = stored or config, None, None
    if first is not None:
        wanted = wanted.replaced(**first[1].config.model_dump(include={"teacher", "teachers"}, mode="json"))
        data, stream = first[1].data, first[0].stream
    # before the folder is touched: what is wrong leaves nothing behind
    built = ranks.together(partial(build, wanted, device, data))
    console = (
        Console(folder / "train.log", quiet=quiet, prefix=prefix, bar=first is None)
        if ranks.is_first
        else Console(quiet=True)
    )
    job = ranks.together(partial(build_job, built, folder, console, device, stop, stream))
    held.enter_context(console)
    held.callback(built.distiller.close)
    held.callback(_close_trackers, job)
    if first is None:
        held.callback(job.stream.close)
        built = settle_precision(built, job.stream.loader.image_set, ranks)
        built = attach_answers(built, job.stream, folder, ranks, runs=runs, say=console.say)
    else:
        built.distiller.share_teachers(first[1].distiller)
    ranks.first(partial(_claim, held, folder, config, built))
    job.inputs = ranks.first(partial(inputs, built, None if first is None else first[0].inputs["digests"]))
    return job, built


def check_begins(config: Config) -> None:
    """Refuses a training in which no term on the student's logits has a weight in any epoch, though there are some.

    Raises:
        ValueError: with the term that would have been the first one, and its epoch.
    """
    epochs, judging = config.train.epochs, judging_terms(build_terms(config.losses))
    if judging and not any(term.weight.at(epoch) for term in judging for epoch in range(epochs)):
        first = min(judging, key=lambda term: term.weight.from_epoch)
        raise ValueError(
            f"a term on the student's logits must have a weight within train.epochs = {epochs}, got {first.label!r} of "
            f"weight {first.weight.value:g} from epoch {first.weight.from_epoch} on. Train for longer, let it begin "
            "earlier, or give it a weight"
        )


def _claim(held: ExitStack, folder: Path, config: Config, built: Built) -> None:
    """Locks the output folder for this process, and writes down what is run there."""
    held.enter_context(locked(folder))
    for place in (folder, folder / "checkpoints"):
        sweep(place)
    if stored_config(folder, config) is None:  # another process may have come first
        write_json(folder / "environment.json", environment(built.config))
        write_text(folder / "config.yaml", built.config.yaml())


def claim_folder(held: ExitStack, folder: Path, config: Config) -> None:
    """Locks a folder of runs for this process, and writes down what is run there."""
    if folder.is_dir() and (folder / "config.yaml").exists():
        stored_config(folder, config)
    held.enter_context(locked(folder))
    if not (folder / "config.yaml").exists():
        write_text(folder / "config.yaml", config.yaml())


def stored_config(folder: Path, config: Config) -> Config | None:
    """Returns the config of the unfinished run in ``folder``, ``None`` if the folder is free.

    Raises:
        ValueError: the run is finished or has another config, or the folder holds something else.
    """
    if not (folder / "config.yaml").exists():
        if folder.is_file() or (folder.is_dir() and any(not _is_own(f.name) for f in folder.iterdir())):
            raise ValueError(
                f"output must be a new or empty folder, got {folder}, which holds other things. Choose another"
            )
        return None
    if (folder / DATABASE).exists():
        raise ValueError(
            f"output must be a folder of runs, got {folder}, which holds a search. Go on with it: understudy tune"
        )
    stored = load_config(folder / "config.yaml", {"output": config.output})
    different = differences(_of_one_run(config), _of_one_run(stored))
    if different:
        raise ValueError(
            f"output {folder} must hold the same run, got another value for {', '.join(different[:5])}. "
            "Choose another output=, or delete the folder"
        )
    result = folder / "result.json"
    if result.exists() and read_json(result).get("status") == "finished":
        raise ValueError(
            f"output must not hold a finished run, got {folder}. Choose another output=, or delete the folder"
        )
    return stored


def check_one_run(folder: Path, verb: str) -> None:
    """Refuses a folder that is no run but holds some: a study's, a chain's, several seeds'."""
    own = "student.safetensors"
    if not (folder / own).exists():
        runs = sorted(str(file.parent) for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{own}"))
        if runs:
            more = ", ..." if len(runs) > 3 else ""
            raise ValueError(
                f"{verb} must be given one run, got {folder}, which holds {len(runs)}. Name one of them: "
                f"{', '.join(runs[:3])}{more}"
            )


def _is_own(name: str) -> bool:
    """Returns whether a run may have left a file of this name in its folder before its config was written."""
    return name in (".lock", "environment.json") or is_temporary(name)


def _of_one_run(config: Config) -> dict[str, Any]:
    """Returns a config as plain values, without what only studies and searches read, and where tables lie."""
    plain = config.model_dump(mode="json", exclude={"study", "tune"})
    plain["data"]["seed"] = data_seed(config)
    for guide in filter(None, (plain["teacher"], *(plain["teachers"] or {}).values())):
        del guide["tables"]
    return plain


def without_teacher(config: Config) -> Config:
    """Returns the config of a student alone: with the terms of labels, see :func:`label_terms`."""
    changes: dict[str, Any] = {"teacher": None, "teachers": None, "gradients.align": "none"}
    if any(term.needs_teacher for term in build_terms(config.losses)):
        changes["losses"] = label_terms(config.losses)
    return config.replaced(**changes)


def finished(config: Config) -> dict[str, Any] | None:
    """Returns the result of this very job if its output folder holds it, finished."""
    result = outcome(config)
    return result if result is not None and result["status"] == "finished" else None


def outcome(config: Config) -> dict[str, Any] | None:
    """Returns the result of this very job if it has ended: finished, or diverged (it would diverge again).

    Raises:
        ValueError: it began with weights that have been replaced since.
    """
    folder = Path(config.output)
    if not (folder / "result.json").exists():
        return None
    result = read_json(folder / "result.json")
    stored = load_config(folder / "config.yaml", {"output": config.output})
    if result.get("verb") == "train":
        config = without_teacher(config)
    mine, theirs = _of_one_run(config), _of_one_run(stored)
    if result.get("status") not in ("finished", "diverged") or not agrees(mine, theirs):
        return None
    began_with = result.get("weights", {})
    now = weight_files(config)
    replaced = [name for name in began_with if now.get(name, began_with[name]) != began_with[name]]
    if replaced:
        raise ValueError(
            f"{folder} must hold a run with the weights that its config names, got one with others: the file of "
            f"{' and '.join(replaced)} has been replaced since. Put it back, or delete the folder to run it again"
        )
    return result


def _close_trackers(job: Job) -> None:
    for tracker in job.trackers:
        tracker.close()


def take_up(verb: str, job: Job, built: Built, anyway: bool = False) -> None:
    """Says what is about to happen, and goes to where the folder stands.

    Args:
        verb: ``train`` or ``distill``.
        job: to be taken up.
        built: what it was made of.
        anyway: go on even if images, teachers or settings are not those that the run began with.

    Raises:
        ValueError: the checkpoint is damaged or another run's, or began with something else.
    """
    reset_peak(job.device)
    for line in _introduction(verb, job, built):
        job.console.say(line)
    _restore(job, built, anyway)
    if job.ranks.is_first:
        values = built.config.model_dump(mode="json")
        job.trackers = open_trackers(job.train.trackers, job.folder, values, job.epoch, job.console.say)


def note(verb: str, job: Job, built: Built, error: DivergedError | InterruptedRunError) -> None:
    """Writes down why a run ends before its last epoch."""
    if isinstance(error, InterruptedRunError):
        job.console.say(f"interrupted in epoch {job.epoch + 1}; go on with: {_command(job.folder)}")
        return
    diverged = {"status": "diverged", "message": str(error)}
    write_json(job.folder / "result.json", summary(verb, job, built) | diverged)


def _command(folder: Path) -> str:
    """Returns what goes on with a run: a search's own measure no test image, so nothing but the search may."""
    of_search = {"teacher": folder.parent, "trials": folder.parent.parent}
    search = of_search.get(folder.name) or of_search.get(folder.parent.name)
    if search is not None and (search / DATABASE).exists():
        return "the same understudy tune"
    return f"understudy resume {shlex.quote(str(folder))}"


def conclude(verb: str, job: Job, built: Built) -> Run:
    """Measures once, and writes what is left behind."""
    result = finish(verb, job, built)
    for tracker in job.trackers:
        tracker.log({"epoch": job.epoch, **result["last"]})
    with job.measured():
        student = job.distiller.deployable().eval()
    report = job.ranks.first(partial(write_run_report, job.folder))
    job.console.say(headline(result))
    job.console.say(f"report: {report}")
    return Run(job.folder, built.config, student, result)


def _introduction(verb: str, job: Job, built: Built) -> list[str]:
    """Returns what is about to happen, with every choice that was made automatically."""
    config, data, setup = built.config, built.data, built.distiller.setup
    student = f"{config.student.model} ({count_parameters(setup.student.module):,} parameters)"
    sizes = f"{len(data.train):,} training images"
    if data.val is not None:
        sizes += f", {len(data.val):,} held out"
    if data.test is not None:
        sizes += f", {len(data.test):,} test"
    lines = [f"{verb} {student} on {config.data.name}: {sizes}, {len(data.classes)} classes"]
    guides = built.distiller.guides
    for name, network in guides.networks.items():
        precision = config.guides[name].precision
        lines.append(
            f"{name} {config.guides[name].model} ({count_parameters(network.module):,} parameters), {precision}; "
            f"{guides.notes[name]}"
        )
    for term in built.distiller.terms:
        lines.append(f"  term {term.label}: {term.describe()}")
    train = config.train
    lines.append(
        f"{train.epochs} epoch{_s(train.epochs)} of {job.steps} step{_s(job.steps)}, batch {train.batch_size}, "
        f"{train.precision}, {train.device}, {train.threads} thread{_s(train.threads)}, into {job.folder}"
    )
    if job.ranks.several:
        norms = "batch norms over all of them" if train.sync_bn else "batch norms each by itself"
        rows = "; each holds its rows of the student" if built.distiller.divided else ""
        lines.append(f"{job.ranks.world} processes share each batch; {norms}{rows}")
    return lines + [f"note: {note}" for note in built.notes]


def _s(count: int | None) -> str:
    return "" if count == 1 else "s"


def _restore(job: Job, built: Built, anyway: bool) -> None:
    """Takes the last checkpoint, and cuts the metrics back to it; without one, prepares the first epoch."""
    state = job.ranks.first(partial(_last_state, job, anyway))
    if state is None:
        job.distiller.share_state()
        if job.distiller.needs_prepare:
            job.console.say("one pass over the training images for what the terms must know of them")
            plain, shown = eval_batches(built.data.train, built, job.device), FirstEpoch(built, job.device)
            job.distiller.prepare(plain, shown)
    if job.train.ema is not None:
        job.average = MovingAverage(job.distiller.live_state, job.train.ema, job.distiller.deployed_names())
    if state is not None:
        try:
            job.load(state)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{job.checkpoint} must be of the run that config.yaml describes, got another one's ({reason}). "
                "Put config.yaml back as it was, or choose another output="
            ) from error
        job.console.say(f"resuming after epoch {job.epoch}" + (f", step {job.step}" if job.step else ""))
    if job.ranks.is_first:
        job.cut_metrics()


def _last_state(job: Job, anyway: bool) -> dict[str, Any] | None:
    """Returns the state to go on from, ``None`` at the beginning."""
    if not (job.checkpoint.exists() or previous_of(job.checkpoint).exists()):
        return None
    state = load_checkpoint(job.checkpoint)
    others = changed(state.get("inputs", {}), job.inputs)
    if others and not anyway:
        raise ValueError(
            f"a run must go on with what it began with, got other {', '.join(others[:5])} for {job.folder}. Put back "
            f"what was there, or go on all the same: understudy resume {shlex.quote(str(job.folder))} --changed"
        )
    if others:
        job.console.say(f"from here on with other {', '.join(others)}")
    job.inputs["files"] = state.get("inputs", {}).get("files", job.inputs["files"])  # what it began with
    return state
