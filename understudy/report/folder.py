"""Run and study folders, as read from their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
"""The format of ``result.json`` and ``study.json`` that these pages understand."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What a run folder holds; empty where a file is not there (yet)."""

    path: Path
    result: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    """One mapping an epoch, by rising epoch."""
    config: str
    environment: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """What a study folder holds, and those of its run folders that are there."""

    path: Path
    study: Mapping[str, Any]
    runs: Mapping[str, RunFolder]
    """By the ``path`` that ``study.json`` gives."""


def read_run(path: Path) -> RunFolder:
    """Returns what a run folder holds.

    Raises:
        ValueError: the folder has neither ``result.json`` nor ``metrics.jsonl``, or a file is malformed.
    """
    if not (path / "result.json").is_file() and not (path / "metrics.jsonl").is_file():
        raise ValueError(
            f"a run folder must hold result.json or metrics.jsonl, got {path}. "
            "Give the folder that output: names"
        )
    result = _read_mapping(path / "result.json")
    if result:
        _check_format(result, path / "result.json")
    return RunFolder(
        path=path,
        result=result,
        metrics=_read_metrics(path / "metrics.jsonl"),
        config=_read_text(path / "config.yaml"),
        environment=_read_mapping(path / "environment.json"),
    )


def read_study(path: Path) -> StudyFolder:
    """Returns what a study folder holds; run folders that are not there are left out.

    Raises:
        ValueError: there is no ``study.json``, or it or a file of a run is malformed.
    """
    file = path / "study.json"
    if not file.is_file():
        raise ValueError(
            f"a study folder must hold study.json, got {path}. Give the folder that `study` wrote"
        )
    study = _read_mapping(file)
    _check_format(study, file)
    names = (run.get("path") for arm in items(study, "arms") for run in items(arm, "runs"))
    runs = {
        name: read_run(path / name)
        for name in names
        if isinstance(name, str) and name and _is_inside(path, name)
        if (path / name / "metrics.jsonl").is_file()
    }
    return StudyFolder(path=path, study=study, runs=runs)


def _is_inside(folder: Path, name: str) -> bool:
    """Returns whether a path out of a file leads to somewhere in the folder."""
    return (folder / name).resolve().is_relative_to(folder.resolve())


def part(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Returns ``mapping[key]`` if it is a mapping, else an empty one."""
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def items(mapping: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Returns the mappings in the list ``mapping[key]``; none if it is no list."""
    value = mapping.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def number(mapping: Mapping[str, Any], key: str) -> float | None:
    """Returns ``mapping[key]`` as a float (NaN and infinities included), ``None`` if it is no number."""
    value = mapping.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return float("inf")


def string(mapping: Mapping[str, Any], key: str) -> str:
    """Returns ``mapping[key]`` as text, empty if it is absent or ``None``."""
    value = mapping.get(key)
    return "" if value is None else str(value)


def class_names(result: Mapping[str, Any]) -> list[str]:
    """Returns the names of the classes that a ``result.json`` gives."""
    value = result.get("classes")
    return [str(name) for name in value] if isinstance(value, list) else []


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read_mapping(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON, got {error}. Restore the file or delete it") from None
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} must hold a JSON object, got {type(value).__name__}. Restore the file or delete it"
        )
    return value


def _read_metrics(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Returns the lines of a ``metrics.jsonl``; of an epoch written twice (after a resume) the later."""
    lines = _read_text(path).splitlines()
    epochs: dict[float, Mapping[str, Any]] = {}
    for position, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            if position == len(lines):  # the run was killed while it wrote this line
                break
            raise ValueError(f"{path} line {position} must be JSON, got {error}. Restore the file") from None
        epoch = number(value, "epoch") if isinstance(value, dict) else None
        if epoch is None:
            raise ValueError(
                f"{path} line {position} must be an object with an epoch, got {line[:60]}. Restore the file"
            )
        epochs[epoch] = value
    return tuple(epochs[epoch] for epoch in sorted(epochs))


def _check_format(value: Mapping[str, Any], path: Path) -> None:
    if value.get("format") != FORMAT:
        raise ValueError(
            f"{path} must have format {FORMAT}, got {value.get('format')!r}. "
            "Use the version of understudy that wrote it"
        )
