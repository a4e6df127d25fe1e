"""The verb `analyze`: a run or a study folder in, numbers, tables, figures and a page out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy.analyses import ANALYSES
from understudy.analyses.contract import Analysis, Finding, NotApplicableError
from understudy.analyses.needs import NEEDS
from understudy.analyses.output import summary_lines, write_finding, write_page
from understudy.analyses.pair import Options, Pair, Sweep, config_of
from understudy.build import process
from understudy.config import DataConfig, build_config
from understudy.engine.console import Console
from understudy.report.folder import read_run, read_study
from understudy.tasks import task_named
from understudy.widest import has_float64
from understudy.words import did_you_mean


@dataclass(frozen=True, slots=True)
class Analysed:
    """What was found in one folder."""

    path: Path
    """Of the page, ``index.html``; the other files stand beside it."""
    findings: dict[str, Finding]
    refused: dict[str, str]
    """Analysis -> what the folder lacks for it."""


def analyze(
    folder: str | os.PathLike[str],
    only: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    *,
    quiet: bool = False,
    **overrides: Any,
) -> Analysed:
    """Runs the papers' analyses on a finished run or study.

    Args:
        folder: of a run, or of a study.
        only: names of ``ANALYSES``; by default all that the folder allows and that train nothing.
        out: folder to write to, by default ``FOLDER/analysis``.
        quiet: print nothing.
        overrides: dotted keys of the run's config (``**{"data.root": ...}``, or a teacher for a run without one), of
            ``transfer`` (a ``data:`` section) and of ``sweep`` (``setting``, ``values``, ``seeds``, ``epochs``);
            ``epochs`` for ``difficulty_training``.

    Returns:
        numbers, tables and figures of every analysis, which are also written.

    Raises:
        ValueError: there is no such analysis; one that was named lacks something; the folder is no finished run.
    """
    path = Path(folder)
    target = Path(out) if out is not None else path / "analysis"
    of = "study" if (path / "study.json").is_file() else "run"
    chosen = _chosen(only, of)
    console = Console(quiet=quiet)
    options, changes = _options(overrides, target)
    if of == "study":
        study = read_study(path)
        return _all(chosen, lambda a: a.run(study), lambda _: None, path, target, bool(only), console)
    config = config_of(path, changes)
    if (path / "result.json").is_file():
        task = task_named(read_run(path).result.get("task")).name
        if task != "classification":
            raise ValueError(
                f"analyze must be given a run that gives each image one class, got one of {task} in {path}. Its "
                "class-by-class scores are in report.html, and evaluate prints them"
            )
    with process(config) as device:
        if not has_float64(device):
            raise ValueError(
                f"analyze must run on a device with float64, got train.device {device.type}. Use train.device=cpu"
            )
        pair = Pair.load(path, device, config, options)
        try:
            return _all(
                chosen, lambda a: a.run(pair), lambda a: _lack(a, pair), path, target, bool(only), console
            )
        finally:
            pair.distiller.close()


def _chosen(only: Sequence[str], of: str) -> dict[str, Analysis]:
    if not only:
        return {name: a for name, a in ANALYSES.items() if a.of == of and not a.asked_only}
    for name in only:
        if name not in ANALYSES:
            raise ValueError(
                f"an analysis must be one that there is, got {name!r}. {did_you_mean(name, ANALYSES)}"
            )
        if ANALYSES[name].of != of:
            other = "study" if of == "run" else "run"
            raise ValueError(
                f"{name} must be given a {other} folder, got a {of}. "
                + (
                    "A study's runs stand in its folder"
                    if of == "study"
                    else "Make one with: understudy study"
                )
            )
    return {name: ANALYSES[name] for name in dict.fromkeys(only)}


def _options(overrides: Mapping[str, Any], target: Path) -> tuple[Options, dict[str, Any]]:
    """Returns what is meant for the analyses, and what for the run's config."""
    groups: dict[str, dict[str, Any]] = {"transfer": {}, "sweep": {}}
    rest = {}
    options = Options(out=target)
    for key, value in overrides.items():
        group, _, name = key.partition(".")
        if group in groups and name:
            groups[group][name] = value
        elif key == "epochs":
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"epochs must be a whole number from 1 up, got {value!r}. Try epochs=5")
            options = replace(options, epochs=value)
        else:
            rest[key] = value
    return replace(options, transfer=_transfer(groups["transfer"]), sweep=_sweep(groups["sweep"])), rest


def _transfer(values: dict[str, Any]) -> DataConfig | None:
    if not values:
        return None
    # through the schema of a whole config, for its messages
    return build_config({"data": values, "student": {"model": "cnn_tiny"}}, {}).data


def _sweep(values: dict[str, Any]) -> Sweep:
    known = Sweep.__dataclass_fields__
    for name in values:
        if name not in known:
            raise ValueError(
                f"sweep must have no keys but {', '.join(known)}, got {name!r}. {did_you_mean(name, known)}"
            )
    for name in ("values", "seeds"):
        if name in values:
            if not isinstance(values[name], list | tuple) or not values[name]:
                raise ValueError(f"sweep.{name} must be a list, got {values[name]!r}. Try sweep.{name}=[1,2]")
            values[name] = tuple(values[name])
    return Sweep(**values)


def _lack(analysis: Analysis, pair: Pair) -> str | None:
    return next((reason for need in analysis.needs if (reason := NEEDS[need](pair)) is not None), None)


def _all(
    chosen: Mapping[str, Analysis],
    run: Callable[[Analysis], Finding],
    lack: Callable[[Analysis], str | None],
    source: Path,
    out: Path,
    named: bool,
    console: Console,
) -> Analysed:
    """Runs what was chosen; what was named and cannot be run is an error, what was not named is left out."""
    reasons = {name: lack(analysis) for name, analysis in chosen.items()}
    for name, reason in reasons.items():
        if named and reason is not None:
            raise ValueError(f"{name} must have {reason}")
    out.mkdir(parents=True, exist_ok=True)
    findings: dict[str, Finding] = {}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    for name in chosen:
        if name in refused:
            continue
        try:
            findings[name] = run(chosen[name])
        except NotApplicableError as error:
            if named:
                raise
            refused[name] = str(error)
            continue
        write_finding(out, name, chosen[name], findings[name], {"folder": source.name})
        for line in summary_lines({name: findings[name]}):
            console.say(line)
    for name, reason in refused.items():
        console.say(f"{name}: left out; it must have {reason}")
    page = write_page(out, f"Analyses of {source.resolve().name}", ANALYSES, findings, refused)
    console.say(f"page: {page}")
    return Analysed(page, findings, refused)
