"""Presets: `method: NAME` in a config stands for a list of terms, with the papers' settings for its data and pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from understudy.interface import Align
from understudy.words import did_you_mean


@dataclass(frozen=True, slots=True)
class Preset:
    """A list of terms and how their gradients are merged."""

    losses: tuple[Mapping[str, Any], ...]
    align: Align
    source: str
    """Where the numbers come from."""
    pair: str | None = None
    """The published pair whose settings were taken, ``None`` for the method's general ones."""
    of_pairs: bool = False
    """Whether the settings of single pairs are published at all."""


_MASKS = frozenset(("camvid", "cityscapes", "maskfolder", "voc"))
_PUBLISHED: dict[str, Any] = yaml.safe_load(
    resources.files("understudy.methods").joinpath("published.yaml").read_text("utf-8")
)


def preset(
    name: str, dataset: str | None = None, teacher: str | None = None, student: str | None = None
) -> Preset:
    """Returns what a preset stands for.

    Args:
        name: one of ``PRESETS``.
        dataset: ``imagenet`` and ``coco`` take that column, sets of masks that of segmentation; everything else, and a
            preset without it, cifar100's.
        teacher: the teacher's model, for the settings of a published pair.
        student: likewise.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in _PUBLISHED:
        from understudy.methods import METHODS  # which know this module

        if name in METHODS:
            raise ValueError(
                f"method must be a preset, got {name!r}, which is a term to be put beside others. "
                f"Write losses: [{{name: ce}}, {{name: {name}}}]"
            )
        raise ValueError(f"method must be a preset, got {name!r}. {did_you_mean(name, _PUBLISHED)}")
    entry = _PUBLISHED[name]
    general = "cifar100" if "cifar100" in entry else "coco"
    wanted = "segmentation" if dataset in _MASKS else dataset
    column = entry[wanted if wanted in entry and wanted != "source" else general]
    networks = tuple(None if model is None else _plain(model) for model in (teacher, student))
    chosen: Mapping[str, Any] = next((p for p in column.get("pairs", ()) if _fits(p, *networks)), {})
    losses = tuple(_merged(term, chosen.get(term["name"], {})) for term in column["losses"])
    pair = f"{chosen['teacher']} to {chosen.get('student', 'any student')}" if chosen else None
    return Preset(losses, column.get("align", "none"), entry["source"], pair, "pairs" in column)


def _plain(model: str) -> str:
    """Returns a network's name without its source, and without timm's tag of its weights."""
    name = model.rpartition("/")[2]
    return name.partition(".")[0] if model.startswith("timm/") else name


def _fits(pair: Mapping[str, Any], teacher: str | None, student: str | None) -> bool:
    return pair["teacher"] == teacher and pair.get("student", student) == student


def _merged(term: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a term with a pair's settings; of a weight's schedule only what is given changes."""
    merged = dict(term)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if both else value
    return merged


PRESETS: dict[str, Preset] = {name: preset(name) for name in _PUBLISHED}
"""Every preset with its general settings."""
