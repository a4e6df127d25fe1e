"""Whole jobs: train a model alone, distil one, resume, evaluate. Each is a verb and a Python function."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.build import Built, at_random, build, divided_batches, joined, process, untrained
from understudy.config import AUTO, Config, ModelConfig, TeacherConfig, load_config
from understudy.data.corruptions import CORRUPTIONS, LEVELS, corrupted
from understudy.data.images import ImageSet
from understudy.engine.checkpoint import load_checkpoint, previous_of
from understudy.engine.console import Console
from understudy.engine.divergence import DivergedError
from understudy.engine.loop import InterruptedRunError, fit, stopped_by_signals
from understudy.engine.measure import Measured, measure
from understudy.files import locked
from understudy.guidance import MEMORY, OFF
from understudy.job import (
    Run,
    check_one_run,
    claim_folder,
    conclude,
    finished,
    note,
    open_job,
    stored_config,
    take_up,
    without_teacher,
)
from understudy.methods.term import build_terms, label_terms
from understudy.metrics import likeness, quality
from understudy.models import load_weights
from understudy.models.published import built_with
from understudy.models.translated import untranslated
from understudy.side_by_side import side_by_side
from understudy.tasks import Task

Source = str | os.PathLike[str] | Mapping[str, Any] | Config


def train(source: Source, *, quiet: bool = False, **overrides: Any) -> Run:
    """Trains one model alone, on labels: a teacher, or the student that distillation is compared with.

    A config written for :func:`distill` serves as it is: the teacher and the terms that need one are left out, and the
    terms of labels have weight 1.

    Args:
        source: a YAML file, a mapping, or a config.
        quiet: print nothing.
        overrides: dotted keys, ``**{"train.epochs": 5}``.

    Returns:
        the finished run: its folder, its config as it was run, the plain student in eval mode, the content of
        ``result.json``.

    Raises:
        ValueError: the config is wrong, the output folder belongs to another run, or the training diverged.
        InterruptedRunError: asked to stop; there is a checkpoint.
    """
    return begin("train", without_teacher(load_config(source, overrides)), quiet)


def distill(source: Source, *, quiet: bool = False, runs: int = 1, **overrides: Any) -> Run:
    """Trains a student under a teacher: the whole job, from the config to the report.

    Args:
        source: a YAML file, a mapping, or a config.
        quiet: print nothing.
        runs: how many runs, this one counted, ask this teacher about the same views (``data.seed``) and keep its
            answers in one place (``teacher.tables``). ``teacher.table: auto`` weighs whether a table pays for all.
        overrides: dotted keys, ``**{"train.epochs": 5}``.

    Returns:
        the finished run: its folder, its config as it was run, the plain student in eval mode, the content of
        ``result.json``.

    Raises:
        ValueError: the config is wrong, the output folder belongs to another run, or the training diverged.
        InterruptedRunError: asked to stop; there is a checkpoint.
    """
    config = load_config(source, overrides)
    if config.assistants or config.generations > 1:
        return _chain(config, quiet, runs)
    if _verb(config) == "train":
        raise ValueError(
            "distill must have a teacher, got none. Add teacher: {model: ..., weights: ...}, or use train"
        )
    return begin("distill", config, quiet, runs)


def resume(
    folder: str | os.PathLike[str], *, previous: bool = False, changed: bool = False, quiet: bool = False
) -> Run:
    """Takes an interrupted run to its end, exactly as if it had never stopped.

    Args:
        folder: of the run.
        previous: go on from the checkpoint before the last one, which is dropped (for one that is damaged).
        changed: go on even if training images, labels, a teacher's weights or settings in the folder's ``config.yaml``
            are not those that the run began with; ``train.log`` says which. The result is then no run of its config.
        quiet: print nothing.

    Returns:
        the finished run: its folder, its config as it was run, the plain student in eval mode, the content of
        ``result.json``.

    Raises:
        ValueError: the folder holds no run, or a finished one; or the run began with something else.
        InterruptedRunError: asked to stop; there is a checkpoint.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise ValueError(
            f"resume must be given a run folder, got {path} without a config.yaml. Start one with distill; "
            "a study goes on by its own command"
        )
    config = load_config(path / "config.yaml", {"output": str(path)})
    if previous:
        joined(config).first(partial(_drop_last, path, config))
    if config.assistants or config.generations > 1:
        return _chain(config, quiet, anyway=changed)
    return begin(_verb(config), config, quiet, anyway=changed)


def _drop_last(folder: Path, config: Config) -> None:
    """Deletes the last checkpoint of a run that is not finished, if the one before it is whole."""
    last = folder / "checkpoints" / "last.pt"
    with locked(folder):
        stored_config(folder, config)
        load_checkpoint(previous_of(last))
        last.unlink(missing_ok=True)


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
        :func:`understudy.metrics.likeness`; ``test/KIND-LEVEL`` and ``teacher/KIND-LEVEL``, accuracies in percent. Of a
        segmentation ``test/miou``, ``test/pixel_acc``, ``test/iou/CLASS`` and, with a teacher, its own and
        ``agreement``, all in percent; of images of several classes ``test/map``, ``test/f1``, ``test/ap/CLASS``; of a
        detection ``test/ap``, ``test/ap50``, ``test/ap75``, those by size, ``test/ap/CLASS`` and, with a teacher,
        its own.

    Raises:
        ValueError: the run is not finished, or the data have no test images.
    """
    weights, changes = None, {}
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        check_one_run(Path(source), "evaluate")
        weights = Path(source) / "student.safetensors"
        if not weights.exists():
            raise ValueError(
                f"evaluate must be given a finished run, got {source} without student.safetensors. Resume it"
            )
        source = Path(source) / "config.yaml"
        changes = {
            "student.weights": None,
            "student.pretrained": False,
        }  # what it began with is replaced at once
    config = load_config(source, changes | overrides)
    if weights is not None and (options := built_with(weights, config.student.model)):
        config = config.replaced(**{"student.options": {**options, **config.student.options}})
    with process(config) as device:
        built = build(config, device)
        quiet = quiet or not built.distiller.ranks.is_first
        console, measured = Console(quiet=quiet), {} if weights is not None else {"student": config.student}
        for name, network in (measured | config.guides).items():
            if untrained(network, built.data):
                key = "student" if name in measured else config.guide_key(name)
                console.say(f"note: {at_random(name, key, network, built.data)}")
        test = built.data.test
        if test is None:
            raise ValueError("evaluate must have test images, got data without any. Set data.test")
        student = built.distiller.deployable().eval()
        if weights is not None:
            load_weights(untranslated(student), weights)
        networks: dict[str, Callable[[Tensor], Tensor]] = {"test": student}
        if built.distiller.guides:
            networks["teacher"] = built.distiller.guides.predict
        batches = divided_batches(test, built, device)
        task = built.distiller.task
        found = measure(task, networks, batches, built.data.num_classes, device)
        result = _numbers(found, built.data.classes, task)
        if corruptions:
            result |= _on_corrupted(networks, built, test, device)
    for name, value in result.items():
        console.say(f"{name:<20} {value:7.3f}" if name.endswith(_NO_SHARES) else f"{name:<20} {value:7.2f}%")
    return result


def _numbers(found: Mapping[str, Measured], classes: Sequence[str], task: Task) -> dict[str, float]:
    """Returns everything that was measured under its name."""
    test, teacher = found["test"], found.get("teacher")
    if task.name != "classification" or test.answers is None:
        kind = task.per_class.removeprefix("class_")
        result = {f"{name}/{key}": value for name, m in found.items() for key, value in m.scores.items()}
        for name, value in zip(classes, test.by_class, strict=True):
            result |= {} if value is None else {f"test/{kind}/{name}": value}
        if teacher is not None and teacher.agreement is not None:
            result["agreement"] = teacher.agreement
        return result
    target = test.answers.target
    result = {
        f"{name}/{key}": value
        for name, m in found.items()
        if m.answers is not None
        for key, value in quality(m.answers.logits, target).items()
    }
    if teacher is not None and teacher.answers is not None:
        result |= likeness(test.answers.logits, teacher.answers.logits, target)
    return result


_NO_SHARES = ("nll", "brier", "kl")
"""Ends of the names of numbers that are no percentages."""


def _on_corrupted(
    networks: Mapping[str, Callable[[Tensor], Tensor]], built: Built, images: ImageSet, device: torch.device
) -> dict[str, float]:
    """Returns ``NAME/KIND-LEVEL``: the first score in percent on every kind and level of spoiled images."""
    result, task = {}, built.distiller.task
    gib, most = 2 * math.prod(images.images.shape) / 2**30, built.config.data.max_gib or 8.0
    if gib > most and not images.resident:
        raise ValueError(
            f"test images must fit data.max_gib twice, as they are and spoiled, got {gib:.1f} GiB with {most:g} "
            "allowed. Raise it, or lower data.image_size"
        )
    images = replace(images, images=images.in_memory())
    for kind, level in product(CORRUPTIONS, LEVELS):
        batches = divided_batches(corrupted(images, kind, level), built, device)
        for name, measured in measure(task, networks, batches, built.data.num_classes, device).items():
            result[f"{name}/{kind}-{level}"] = measured.scores[task.primary]
    return result


def _verb(config: Config) -> str:
    """Returns whether a config's student learns from labels alone, or from somebody."""
    alone = not config.guides and all(term.method.label_loss for term in build_terms(config.losses))
    return "train" if alone else "distill"


def _chain(config: Config, quiet: bool, runs: int = 1, *, anyway: bool = False) -> Run:
    """Distils through ``assistants`` or over ``generations``: every link learns from the one before.

    ``output`` becomes a folder of runs, ``1-MODEL``, ``2-MODEL``, ... A link that is finished is not run again, so a
    chain that was stopped goes on when it is started again, or resumed. Every link has a seed of its own, the last one
    the config's: a generation must not begin with the very weights that its teacher began with.
    """
    folder = Path(config.output)
    models = [*config.assistants, *[config.student] * config.generations]
    link, teacher, run = config.replaced(assistants=[], generations=1), config.teacher, None
    ranks = joined(config)
    with stopped_by_signals(), ExitStack() as held:  # one signal is for all links
        ranks.first(partial(claim_folder, held, folder, config))
        for number, model in enumerate(models, start=1):
            output = folder / f"{number}-{model.model.replace('/', '-').replace(':', '-')}"
            job = link.replaced(
                seed=(config.seed + (len(models) - number) * _APART) % 2**64,
                student=model.model_dump(),
                teacher=None if teacher is None else teacher.model_dump(),
                output=str(output),
            )
            if teacher is None:  # the first generation of a self-distillation has nobody to learn from
                job = job.replaced(**{"losses": label_terms(job.losses), "gradients.align": "none"})
            Console(quiet=quiet or not ranks.is_first).say(f"— link {number} of {len(models)}: {model.model}")
            if number == len(models) or ranks.first(partial(finished, job)) is None:
                sharing = runs if number == 1 else 1  # every other link has a teacher of its own
                run = begin("train" if teacher is None else "distill", job, quiet, sharing, anyway=anyway)
            teacher = _taught(config, model, output)
    assert run is not None  # there is at least the student
    return run


_APART = 2**32
"""Between the seeds of two links, which are not those of another chain of a study."""


def _taught(config: Config, model: ModelConfig, output: Path) -> TeacherConfig:
    """Returns the student of one link as the teacher of the next; it answers as the first teacher was told to.

    It needs a table of its own, so one with a path is left to ``auto``.
    """
    first = config.teacher or TeacherConfig(model=model.model)
    manner = first.model_dump(include={"table", "table_dtype", "tables", "precision", "batch_size"})
    if first.table not in (AUTO, OFF, MEMORY):
        manner["table"] = AUTO
    weights = str(output / "student.safetensors")
    own = model.model_dump(include={"model", "taps", "options", "mean", "std", "image_size", "channels"})
    return TeacherConfig(weights=weights, **own, **manner)


def begin(verb: str, config: Config, quiet: bool, runs: int = 1, *, anyway: bool = False) -> Run:
    """Claims the output folder and runs, or goes on with what is there.

    Args:
        verb: ``train`` or ``distill``.
        config: of the run.
        quiet: print nothing.
        runs: see :func:`distill`.
        anyway: see ``changed`` of :func:`resume`.
    """
    if config.train.seeds is not None:
        return side_by_side(verb, config, quiet, anyway)
    stop = threading.Event()
    with stopped_by_signals(stop), ExitStack() as held:
        stored = joined(config).first(partial(stored_config, Path(config.output), config))
        device = held.enter_context(process(stored or config))
        job, built = open_job(held, config, stored, device, stop, quiet, runs=runs)
        take_up(verb, job, built, anyway)
        try:
            fit(job)
        except (DivergedError, InterruptedRunError) as error:
            note(verb, job, built, error)
            raise
        return conclude(verb, job, built)
