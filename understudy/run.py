"""Whole jobs: train a model alone, distil one, resume, evaluate. Each is a verb and a Python function."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.build import Built, build, build_job, divided_batches, eval_batches, joined, process
from understudy.config import Config, ModelConfig, agrees, differences, load_config
from understudy.data.corruptions import CORRUPTIONS, LEVELS, corrupted
from understudy.data.images import ImageSet
from understudy.engine.checkpoint import load_checkpoint, previous_of
from understudy.engine.console import Console
from understudy.engine.ema import MovingAverage
from understudy.engine.evaluate import answers
from understudy.engine.loop import DivergedError, InterruptedRunError, Job, fit, stopped_by_signals
from understudy.files import json_line, locked, read_json_lines, write_json, write_text
from understudy.methods.term import build_terms
from understudy.metrics import correct, likeness, quality
from understudy.models import load_weights
from understudy.report import write_run_report
from understudy.result import count_parameters, environment, finish, headline, summary

Source = str | os.PathLike[str] | Mapping[str, Any] | Config


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


def train(source: Source, *, quiet: bool = False, **overrides: Any) -> Run:
    """Trains one model alone, on labels: a teacher, or the student that distillation is compared with.

    A config written for :func:`distill` serves as it is: the teacher and the terms that need one are left out.

    Args:
        source: a YAML file, a mapping, or a config.
        quiet: print nothing.
        overrides: dotted keys, ``**{"train.epochs": 5}``.

    Raises:
        ValueError: the config is wrong, the output folder belongs to another run, or the training diverged.
    """
    config = load_config(source, overrides)
    changes: dict[str, Any] = {"teacher": None, "teachers": None, "gradients.align": "none"}
    if any(term.needs_teacher for term in build_terms(config.losses)):
        changes["losses"] = [{"name": "ce"}]
    return _begin("train", config.replaced(**changes), quiet)


def distill(source: Source, *, quiet: bool = False, **overrides: Any) -> Run:
    """Trains a student under a teacher: the whole job, from the config to the report.

    Args:
        source: a YAML file, a mapping, or a config.
        quiet: print nothing.
        overrides: dotted keys, ``**{"train.epochs": 5}``.

    Raises:
        ValueError: the config is wrong, the output folder belongs to another run, or the training diverged.
    """
    config = load_config(source, overrides)
    if config.assistants or config.generations > 1:
        return _chain(config, quiet)
    if _verb(config) == "train":
        raise ValueError(
            "distill must have a teacher, got none. Add teacher: {model: ..., weights: ...}, or use train"
        )
    return _begin("distill", config, quiet)


def resume(folder: str | os.PathLike[str], *, previous: bool = False, quiet: bool = False) -> Run:
    """Takes an interrupted run to its end, exactly as if it had never stopped.

    Args:
        folder: of the run.
        previous: go on from the checkpoint before the last one, which is dropped (for one that is damaged).
        quiet: print nothing.

    Raises:
        ValueError: the folder holds no run, or a finished one.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise ValueError(
            f"resume must be given a run folder, got {path} without a config.yaml. Start one with distill"
        )
    config = load_config(path / "config.yaml", {"output": str(path)})
    if previous:
        last = path / "checkpoints" / "last.pt"
        load_checkpoint(previous_of(last))  # which must be whole
        last.unlink(missing_ok=True)
    if config.assistants or config.generations > 1:
        return _chain(config, quiet)
    return _begin(_verb(config), config, quiet)


def evaluate(
    source: Source, *, corruptions: bool = False, quiet: bool = False, **overrides: Any
) -> dict[str, float]:
    """Measures a run, or the student of a config with weights, on the test images.

    Args:
        source: a run folder (its ``student.safetensors`` is measured), or a config whose ``student.weights`` is.
        corruptions: also measure accuracy on spoiled test images (noise, blur, contrast, JPEG at five levels).
        quiet: print nothing.
        overrides: dotted keys.

    Returns:
        ``test/`` and the numbers of :func:`understudy.metrics.quality`; with a teacher also ``teacher/`` and those, and
        :func:`understudy.metrics.likeness`; ``test/KIND-LEVEL`` and ``teacher/KIND-LEVEL``, accuracies in percent.

    Raises:
        ValueError: the run is not finished, or the data have no test images.
    """
    weights = None
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        weights = Path(source) / "student.safetensors"
        if not weights.exists():
            raise ValueError(
                f"evaluate must be given a finished run, got {source} without student.safetensors. Resume it"
            )
        source = Path(source) / "config.yaml"
    config = load_config(source, overrides)
    with process(config) as device:
        built = build(config, device)
        if built.data.test is None:
            raise ValueError("evaluate must have test images, got data without any. Set data.test")
        batches = divided_batches(built.data.test, built, device)
        student = built.distiller.deployable().eval()
        if weights is not None:
            load_weights(student, weights)
        networks: dict[str, Callable[[Tensor], Tensor]] = {"test": student}
        if built.distiller.guides:
            networks["teacher"] = built.distiller.guides.predict
        found = {name: answers(network, batches) for name, network in networks.items()}
        target = found["test"].target
        result = {f"{n}/{k}": v for n, a in found.items() for k, v in quality(a.logits, target).items()}
        if "teacher" in found:
            result |= likeness(found["test"].logits, found["teacher"].logits, target)
        if corruptions:
            result |= _on_corrupted(networks, built, built.data.test, device)
        quiet = quiet or not built.distiller.ranks.is_first
    console = Console(quiet=quiet)
    for name, value in result.items():
        console.say(f"{name:<20} {value:7.3f}" if name.endswith(_NO_SHARES) else f"{name:<20} {value:7.2f}%")
    return result


_NO_SHARES = ("nll", "brier", "kl")
"""Ends of the names of numbers that are no percentages."""


def _on_corrupted(
    networks: Mapping[str, Callable[[Tensor], Tensor]], built: Built, images: ImageSet, device: torch.device
) -> dict[str, float]:
    """Returns ``NAME/KIND-LEVEL``: top-1 accuracy in percent on every kind and level of spoiled images."""
    result = {}
    for kind, level in product(CORRUPTIONS, LEVELS):
        batches = divided_batches(corrupted(images, kind, level), built, device)
        for name, network in networks.items():
            measured = answers(network, batches)
            (right,) = correct(measured.logits, measured.target, (1,)).tolist()
            result[f"{name}/{kind}-{level}"] = 100 * right / len(measured.target)
    return result


def finished(config: Config) -> dict[str, Any] | None:
    """Returns the result of this very job if its output folder holds it, finished."""
    folder = Path(config.output)
    if not (folder / "result.json").exists():
        return None
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    stored = load_config(folder / "config.yaml", {"output": config.output})
    mine, theirs = config.model_dump(mode="json"), stored.model_dump(mode="json")
    if result["verb"] == "train":  # `train` leaves out the teacher's side
        for key in ("teacher", "teachers", "losses", "gradients"):
            del mine[key], theirs[key]
    return result if result["status"] == "finished" and agrees(mine, theirs) else None


def _verb(config: Config) -> str:
    """Returns whether a config's student learns from labels alone, or from somebody."""
    alone = not config.guides and all(term.method.label_loss for term in build_terms(config.losses))
    return "train" if alone else "distill"


def _chain(config: Config, quiet: bool) -> Run:
    """Distils through ``assistants`` or over ``generations``: every link learns from the one before.

    ``output`` becomes a folder of runs, ``1-MODEL``, ``2-MODEL``, ... A link that is finished is not run again, so a
    chain that was stopped goes on when it is started again, or resumed.
    """
    folder = Path(config.output)
    models = [*config.assistants, *[config.student] * config.generations]
    link, teacher, run = config.replaced(assistants=[], generations=1), config.teacher, None
    ranks = joined(config)

    def claim() -> None:
        if folder.is_dir() and (folder / "config.yaml").exists():
            _stored(folder, config)
        held.enter_context(locked(folder))
        write_text(folder / "config.yaml", config.yaml())

    with ExitStack() as held:
        ranks.first(claim)
        for number, model in enumerate(models, start=1):
            output = folder / f"{number}-{model.model.replace('/', '-').replace(':', '-')}"
            job = link.replaced(
                student=model.model_dump(),
                teacher=None if teacher is None else teacher.model_dump(),
                output=str(output),
            )
            if teacher is None:  # the first generation of a self-distillation has nobody to learn from
                job = job.replaced(**{"losses": [{"name": "ce"}], "gradients.align": "none"})
            Console(quiet=quiet or not ranks.is_first).say(f"— link {number} of {len(models)}: {model.model}")
            if number == len(models) or ranks.first(partial(finished, job)) is None:
                run = _begin("train" if teacher is None else "distill", job, quiet)
            teacher = ModelConfig(
                model=model.model, weights=str(output / "student.safetensors"), taps=model.taps
            )
    assert run is not None  # there is at least the student
    return run


def _begin(verb: str, config: Config, quiet: bool) -> Run:
    """Claims the output folder and runs, or goes on with what is there.

    Of several processes the first one alone knows the folder; what it reads there it sends to the others.
    """
    folder, stop, ranks = Path(config.output), threading.Event(), joined(config)
    stored = ranks.first(partial(_stored, folder, config))
    with stopped_by_signals(stop), process(stored or config) as device, ExitStack() as held:
        # before the folder is touched: what is wrong leaves nothing behind
        built = ranks.together(partial(build, stored or config, device))
        console = Console(folder / "train.log", quiet=quiet) if ranks.is_first else Console(quiet=True)
        job = ranks.together(partial(build_job, built, folder, console, device, stop))
        ranks.first(partial(_claim, held, folder, config, built))
        with console:
            return _run(verb, job, built)


def _claim(held: ExitStack, folder: Path, config: Config, built: Built) -> None:
    """Locks the output folder for this process, and writes down what is run there."""
    held.enter_context(locked(folder))
    if _stored(folder, config) is None:  # another process may have come first
        write_json(folder / "environment.json", environment(built.config))
        write_text(folder / "config.yaml", built.config.yaml())


def _stored(folder: Path, config: Config) -> Config | None:
    """Returns the config of the unfinished run in ``folder``, ``None`` if the folder is free.

    Raises:
        ValueError: the run is finished or has another config, or the folder holds something else.
    """
    if not (folder / "config.yaml").exists():
        if folder.is_file() or (folder.is_dir() and any(f.name not in _OWN for f in folder.iterdir())):
            raise ValueError(
                f"output must be a new or empty folder, got {folder}, which holds other things. Choose another"
            )
        return None
    stored = load_config(folder / "config.yaml", {"output": config.output})
    different = differences(config.model_dump(mode="json"), stored.model_dump(mode="json"))
    if different:
        raise ValueError(
            f"output {folder} must hold the same run, got another value for {', '.join(different[:5])}. "
            "Choose another output=, or delete the folder"
        )
    result = folder / "result.json"
    if result.exists() and json.loads(result.read_text(encoding="utf-8"))["status"] == "finished":
        raise ValueError(
            f"output must not hold a finished run, got {folder}. Choose another output=, or delete the folder"
        )
    return stored


_OWN = {".lock", "environment.json"}
"""What a run may have left in its folder before its config was written."""


def _run(verb: str, job: Job, built: Built) -> Run:
    """Trains from wherever the folder stands, measures once, and writes what is left behind."""
    for line in _introduction(verb, job, built):
        job.console.say(line)
    _restore(job, built)
    try:
        fit(job)
    except DivergedError as error:
        diverged = {"status": "diverged", "message": str(error)}
        write_json(job.folder / "result.json", summary(verb, job, built) | diverged)
        raise
    except InterruptedRunError:
        job.console.say(f"interrupted in epoch {job.epoch + 1}; go on with: understudy resume {job.folder}")
        raise
    result = finish(verb, job, built)
    with job.measured():
        student = job.distiller.deployable().eval()
    job.distiller.close()
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
    for name, teacher in built.distiller.guides.teachers.items():
        lines.append(f"{name} {config.guides[name].model} ({count_parameters(teacher.module):,} parameters)")
    for term in built.distiller.terms:
        lines.append(f"  term {term.label}: {term.describe()}")
    train = config.train
    lines.append(
        f"{train.epochs} epochs of {job.loader.steps_per_epoch} steps, batch {train.batch_size}, {train.precision}, "
        f"{train.device}, {train.threads} threads, into {job.folder}"
    )
    if job.ranks.several:
        norms = "batch norms over all of them" if train.sync_bn else "batch norms each by itself"
        lines.append(f"{job.ranks.world} processes share each batch; {norms}")
    return lines + [f"note: {note}" for note in built.notes]


def _restore(job: Job, built: Built) -> None:
    """Takes the last checkpoint, and cuts the metrics back to it; without one, prepares the first epoch."""
    state = job.ranks.first(partial(_last_state, job))
    if state is None:
        job.distiller.share_state()
        if job.distiller.needs_prepare:
            job.console.say("one pass over the training images for what the terms must know of them")
            job.distiller.prepare(eval_batches(built.data.train, built, job.device))
    if job.train.ema is not None:
        job.average = MovingAverage(job.distiller, job.train.ema, job.distiller.deployed_names())
    if state is not None:
        job.load(state)
        job.console.say(f"resuming after epoch {job.epoch}" + (f", step {job.step}" if job.step else ""))
    if not job.ranks.is_first:
        return
    metrics = job.folder / "metrics.jsonl"
    lines = [line for line in read_json_lines(metrics) if line["epoch"] <= job.epoch]
    write_text(metrics, "".join(json_line(line) + "\n" for line in lines))


def _last_state(job: Job) -> dict[str, Any] | None:
    """Returns the state to go on from, ``None`` at the beginning."""
    begun = job.checkpoint.exists() or previous_of(job.checkpoint).exists()
    return load_checkpoint(job.checkpoint) if begun else None
