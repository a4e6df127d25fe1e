"""Runs that are there already, side by side: grouped into arms by what they differ in, compared as a study compares."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from understudy.config import Config, load_config
from understudy.files import locked, write_json
from understudy.inputs import flat, is_free
from understudy.report import write_study_report
from understudy.report.folder import read_run
from understudy.report.summary import ALONE, arm_lines, verdicts
from understudy.report.text_tables import write_tables
from understudy.study import entry, metric_of, show

_METHOD = ("losses", "gradients", "teacher", "teachers")
"""What makes the arms, and needs no note."""
_IMAGES = ("data.root", "data.train", "data.test")
"""Where the images lie: the same ones may lie elsewhere, so they make no arm of their own, but a note."""


def compare(
    runs: Sequence[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Compares finished runs: those that differ in their seed alone are one arm; differences are paired by seed.

    Runs of ``train`` are the student alone, with which all others are compared.

    Args:
        runs: run folders, at least two.
        output: a folder for ``study.json``, tables and the report, as of a study; by default nothing is written.
        quiet: print nothing.

    Returns:
        The content of ``study.json``. ``notes`` names the settings, other than the method, in which the arms differ:
        then more than the method is compared.

    Raises:
        ValueError: a folder is no run that was measured on test images, or two runs have one method and one seed.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise ValueError(f"compare must be given at least two run folders, got {len(folders)}. Name another")
    base = Path.cwd() if output is None else Path(output)
    arms: dict[str, dict[str, Any]] = {}
    configs, metrics, weights = [], [], []
    read = [_read(folder) for folder in folders]
    students = {result["model"] for _, result in read if result["verb"] != "train"}
    for folder, (config, result) in zip(folders, read, strict=True):
        metrics.append(metric_of(result))
        if metrics[-1] != metrics[0]:
            raise ValueError(
                f"compare must be given runs of one task, got {metrics[0]} and {metrics[-1]} ({folder}). Leave one out"
            )
        configs.append(config)
        weights.append(result.get("weights", {}))
        run = entry(config.seed, os.path.relpath(folder.resolve(), base.resolve()), result)
        arm = arms.setdefault(
            _of_one_arm(config, result),
            {
                "name": "",
                "model": result["model"],
                "parameters": result["parameters"],
                "method": _method(config, result),
                "runs": [],
            },
        )
        if config.seed in (other["seed"] for other in arm["runs"]):
            raise ValueError(
                f"runs of one method must differ in their seed, got {folder} with seed {config.seed} again. "
                "Leave one out"
            )
        arm["runs"].append(run)
        arm["name"] = arm["name"] or _name(result, folder, students)
    _tell_apart(list(arms.values()))
    notes = _notes(configs, weights)
    table: dict[str, Any] = {
        "format": 1,
        "title": f"{len(folders)} runs compared",
        "what": " ".join(["Runs that differ in their seed alone are one arm.", *notes]),
        "metric": metrics[0],
        "arms": list(arms.values()),
        "notes": notes,
    }
    table["verdicts"] = verdicts(arm_lines(table))
    report = None
    if output is not None:
        with locked(base):
            _check_output(base)
            write_json(base / "study.json", table)
            write_tables(base, table)
            report = write_study_report(base, figures=True)
    if not quiet:
        show(table)
        for note in notes:
            print(f"note: {note}")
        if report is not None:
            print(f"report: {report}")
    return table


def _check_output(base: Path) -> None:
    """Refuses the folder of a run or of a study; an earlier comparison is replaced."""
    file = base / "study.json"
    earlier = file.exists() and "notes" in json.loads(file.read_text(encoding="utf-8"))
    if (base / "config.yaml").exists() or (file.exists() and not earlier):
        raise ValueError(
            f"output must be a new folder, got {base}, which holds a run or a study. Choose another"
        )


def _read(folder: Path) -> tuple[Config, dict[str, Any]]:
    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"compare must be given run folders, got {folder} without a config.yaml. Check the path"
        )
    result = dict(read_run(folder).result)
    if result.get("status") != "finished" or metric_of(result) not in result["last"]:
        raise ValueError(
            f"compare must be given finished runs with test images, got {folder}. Finish it with: understudy resume"
        )
    return load_config(folder / "config.yaml"), result


def _of_one_arm(config: Config, result: dict[str, Any]) -> str:
    """Returns what the runs of an arm have in common, as text: all settings but seeds, and the weights they began with.

    Those of a teacher count as what is in the file, wherever it lies.
    """
    settings = {key: value for key, value in _compared(config).items() if key not in _IMAGES}
    return json.dumps([result["verb"], settings, result.get("weights", {})], sort_keys=True)


def _compared(config: Config) -> dict[str, Any]:
    """Returns the settings of a run that may change its result, under their dotted keys."""
    plain = dict(flat(config.model_dump(mode="json", exclude={"study", "tune"})))
    return {
        key: value
        for key, value in plain.items()
        if key not in ("seed", "data.seed")
        and (not is_free(key) or key in _IMAGES or key.endswith(".pretrained"))
    }


def _method(config: Config, result: dict[str, Any]) -> str:
    """Returns what a run learned from, in words."""
    if result["verb"] == "train":
        return f"labels, {config.student.model}"
    terms = [" ".join(f"{key}={value}" for key, value in term.items()) for term in config.losses]
    teachers = " and ".join(guide.model for guide in config.guides.values())
    return f"{' + '.join(terms)}; align {config.gradients.align}; {config.student.model} under {teachers}"


def _name(result: dict[str, Any], folder: Path, students: set[str]) -> str:
    """Returns a short name for an arm: a study's runs lie in ``ARM/seed-N``.

    Of what was trained on labels, only networks that others are distilled into are students, not their teacher.
    """
    if result["verb"] == "train" and (result["model"] in students or not students):
        return ALONE
    name = folder.resolve()
    return name.parent.name if name.name.startswith("seed-") else name.name


def _tell_apart(arms: list[dict[str, Any]]) -> None:
    """Numbers the arms that would have the same name."""
    seen: dict[str, int] = {}
    for arm in arms:
        seen[arm["name"]] = seen.get(arm["name"], 0) + 1
        if seen[arm["name"]] > 1:
            arm["name"] = f"{arm['name']} ({seen[arm['name']]})"


def _notes(configs: list[Config], weights: list[dict[str, str]]) -> list[str]:
    """Returns what the runs differ in besides their methods and seeds, as sentences."""
    first = _compared(configs[0])
    found = dict.fromkeys(
        key
        for other in map(_compared, configs[1:])
        for key in sorted(first.keys() | other.keys())
        if first.get(key) != other.get(key) and key.partition(".")[0] not in _METHOD
    )
    digests = {
        name: {own[name] for own in weights if name in own} for name in {n for own in weights for n in own}
    }
    found |= dict.fromkeys(f"the weights of {name}" for name in sorted(digests) if len(digests[name]) > 1)
    return [f"The runs differ in {', '.join(found)}, not in the method alone."] if found else []
