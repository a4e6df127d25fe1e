"""What papers report for a pair, to stand beside what was measured here."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Published:
    """One number of a paper."""

    value: float
    """Top-1 accuracy in percent."""
    source: str
    """Paper and table, several where one quotes the other."""


def published(data: str, teacher: str, student: str) -> dict[str, tuple[Published, ...]]:
    """Returns what papers report for a data set and a pair, by preset; ``teacher`` and ``student alone`` among them.

    The papers' budget is theirs (CIFAR-100: 240 epochs of batch 64), so these are numbers to look at, not to subtract.

    Args:
        data: name of the data set.
        teacher: the teacher's model; of ``torchvision/resnet34`` the last part counts.
        student: likewise.

    Returns:
        Name -> its numbers, several where tables disagree; empty for a pair that no paper has.

    Example:
        >>> from understudy.report.published import published
        >>> published("cifar100", "resnet32x4", "resnet8x4")["dhkd"]
        (Published(value=76.54, source='DHKD Table 1'),)
    """
    networks = tuple(name.rpartition("/")[2] for name in (teacher, student))
    for row in _tables().get(data, ()):
        if (row["teacher"], row["student"]) == networks:
            return {
                name: tuple(Published(value, source) for source, value in numbers.items())
                for name, numbers in row["results"].items()
            }
    return {}


@functools.cache
def _tables() -> dict[str, Any]:
    text = resources.files("understudy.report").joinpath("published.yaml").read_text("utf-8")
    return yaml.safe_load(text)
