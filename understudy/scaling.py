"""A smaller job of the same shape: every epoch in a config shrinks together, and with it the training images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from understudy.config import ArmConfig, Config

_PASSES = "_epochs"  # end of the name of a method's setting that counts passes over the training images


def scaled(config: Config, share: float, images: int | None = None) -> Config:
    """Returns a config with a share of the epochs, and of the training images if their number is given.

    Learning-rate milestones and warm-up, warm-ups of weights, ``from_epoch``, ``until_epoch``, ``restart_epoch``,
    ``points`` of weights and of settings, and passes over the images that a method prepares with all move as the
    epochs do. Whole epochs stay whole and in order, and two that differ stay different, as long as the epochs that
    are left have room for all of them. Batch size and learning rates stay as they are.

    Args:
        config: a job; ``study.methods`` as lists of terms.
        share: of the epochs, above 0 and at most 1; 1 returns the config unchanged.
        images: number of the data set's training images, of which (or of ``data.limit``, if that is less) the same
            share is kept, balanced over the classes; ``None`` keeps all.

    Raises:
        ValueError: the share is out of range, or the study names presets instead of terms.
    """
    if not 0 < share <= 1:
        raise ValueError(f"scale must be above 0 and at most 1, got {share}. 0.05 trains a twentieth")
    arms = _arms(config)
    if share == 1:
        return config
    clock = Clock.of(config, [*config.losses, *(term for arm in arms for term in arm.losses)], share)
    train, schedule = config.train, config.train.schedule
    changes: dict[str, Any] = {
        "train.epochs": clock.epochs,
        "train.schedule.milestones": [clock.after(m) for m in schedule.milestones],
        "train.schedule.warmup_epochs": clock.moment(schedule.warmup_epochs),
        "losses": [_term(term, clock, share) for term in config.losses],
    }
    if train.keep_checkpoints is not None:
        changes["train.keep_checkpoints"] = max(1, round(train.keep_checkpoints * share))
    if images is not None:
        changes["data.limit"] = max(1, round(min(images, config.data.limit or images) * share))
    if config.study is not None:
        changes["study.methods"] = [
            {**arm.model_dump(mode="json"), "losses": [_term(term, clock, share) for term in arm.losses]}
            for arm in arms
        ]
    return config.replaced(**changes)


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the ends of epochs go when there are fewer of them."""

    knots: tuple[tuple[float, float], ...]
    """Old and new moments, growing; a moment is the number of epochs that have passed."""
    epochs: int
    """After scaling."""

    @classmethod
    def of(cls, config: Config, terms: Iterable[Mapping[str, Any]], share: float) -> Clock:
        """Returns the clock of a job: every epoch that it names, rounded and kept apart where there is room."""
        total, left = config.train.epochs, max(1, round(config.train.epochs * share))
        named = {*config.train.schedule.milestones, *(m for term in terms for m in _moments(term))}
        inner = sorted(m for m in named if 0 < m < total)
        beyond = sorted(m for m in named if m > total)
        new = _apart([round(m * share) for m in inner], left)
        later = _growing([max(round(m * share), left + 1) for m in beyond])
        knots = [(0, 0), *zip(inner, new, strict=True), (total, left), *zip(beyond, later, strict=True)]
        return cls(tuple(knots), left)

    def moment(self, epochs: float) -> float:
        """Returns where a moment goes: on a line between the epochs that are named, with their slope after the last."""
        (first, low), (last, high) = self.knots[0], self.knots[-1]
        if epochs >= last:
            return high + (epochs - last) * high / last
        for left, right in pairwise(self.knots):
            if left[0] <= epochs <= right[0]:
                (first, low), (last, high) = left, right
                break
        return low + (epochs - first) * (high - low) / (last - first)

    def after(self, epoch: int) -> int:
        """Returns the epoch after which happens what happened after this one."""
        return round(self.moment(epoch))


def _arms(config: Config) -> list[ArmConfig]:
    methods = [] if config.study is None else config.study.methods
    for entry in methods:
        if isinstance(entry, str):
            raise ValueError(
                f"a study to be scaled must have its methods as lists of terms, got {entry!r}. "
                "Write {name: ..., losses: [...]}"
            )
    return [entry for entry in methods if isinstance(entry, ArmConfig)]


def _apart(moments: list[int], end: int) -> list[int]:
    """Returns growing moments strictly between 0 and ``end``; where they do not all fit, in order from 0 to ``end``."""
    if len(moments) >= end:
        return [min(m, end) for m in moments]
    kept = _growing([max(m, 1) for m in moments])
    for i in reversed(range(len(kept))):
        kept[i] = min(kept[i], end - (len(kept) - i))
    return kept


def _growing(numbers: Sequence[int]) -> list[int]:
    kept: list[int] = []
    for number in numbers:
        kept.append(number if not kept else max(number, kept[-1] + 1))
    return kept


def _moments(term: Mapping[str, Any]) -> list[int]:
    """Returns the ends of epochs that a term names."""
    weight = term.get("weight")
    found = [epoch - 1 for value in term.values() for epoch, _ in _points(value)]
    if isinstance(weight, Mapping):
        start = weight.get("from_epoch", 1) - 1
        found += [start, start + weight.get("warmup_epochs", 0)]
        found += [weight["until_epoch"]] if weight.get("until_epoch") is not None else []
        found += [weight["restart_epoch"] - 1] if weight.get("restart_epoch") is not None else []
    return found


def _points(value: Any) -> list[tuple[int, float]]:
    """Returns the points of a weight or of a scheduled setting."""
    points = value.get("points") if isinstance(value, Mapping) else None
    return [(int(epoch), number) for epoch, number in points or ()]


def _term(term: Mapping[str, Any], clock: Clock, share: float) -> dict[str, Any]:
    changed = {
        key: max(1, math.ceil(value * share)) if key.endswith(_PASSES) and isinstance(value, int) else value
        for key, value in term.items()
    }
    for key, value in term.items():
        if isinstance(value, Mapping):
            changed[key] = {**(_weight(value, clock) if key == "weight" else value), **_moved(value, clock)}
    return changed


def _moved(value: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    """Returns the points at their new epochs, one an epoch at most."""
    points = _points(value)
    epochs = _growing([clock.after(epoch - 1) + 1 for epoch, _ in points])
    moved = [[epoch, number] for epoch, (_, number) in zip(epochs, points, strict=True)]
    return {"points": moved} if points else {}


def _weight(weight: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    """Returns a weight's schedule at its new epochs; a stretch that lost all its epochs keeps one."""
    changed = dict(weight)
    start = weight.get("from_epoch", 1) - 1
    first = clock.after(start)
    changed["from_epoch"] = first + 1
    changed["warmup_epochs"] = clock.after(start + weight.get("warmup_epochs", 0)) - first
    if weight.get("until_epoch") is not None:
        changed["until_epoch"] = max(clock.after(weight["until_epoch"]), first + 1)
    if weight.get("restart_epoch") is not None:
        changed["restart_epoch"] = max(
            clock.after(weight["restart_epoch"] - 1) + 1, changed["until_epoch"] + 1
        )
    return changed
