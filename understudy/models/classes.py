"""Which of a teacher's classes make each of ours: by name, by number, several to one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.words import did_you_mean

BY_NAME = "name"


def match_classes(
    ours: Sequence[str], mapping: Any, names: Sequence[str] | None, count: int
) -> list[list[int]]:
    """Returns for each of our classes the numbers of the teacher's classes that it is made of.

    Args:
        ours: names of our classes.
        mapping: ``"name"`` (every class of ours is the teacher's class of that name); or a list of numbers, names or
            lists of them, one entry a class of ours, in order; or a mapping from our names to such entries.
        names: the teacher's classes, where they are known.
        count: number of the teacher's classes.

    Raises:
        ValueError: a class of ours is missing, a name or number is not the teacher's, or a class of the teacher is
            used twice.

    Example:
        >>> from understudy.models.classes import match_classes
        >>> match_classes(["cat", "dog"], {"cat": ["tabby", "lynx"], "dog": 1}, ["tabby", "beagle", "lynx"], 3)
        [[0, 2], [1]]
    """
    known: dict[str, list[int]] = {}
    for number, name in enumerate(names or ()):
        known.setdefault(name, []).append(number)
    if mapping == BY_NAME:
        entries: Sequence[Any] = ours
        if names is None:
            raise ValueError(
                "teacher.classes.names must be given to match classes by name, got none. "
                "Give a list, or a file with one name a line"
            )
    elif isinstance(mapping, Mapping):
        entries = _in_our_order(ours, {str(key): value for key, value in mapping.items()})
    else:
        if len(mapping) != len(ours):
            raise ValueError(
                f"teacher.classes.map must have one entry for each of the {len(ours)} classes, got {len(mapping)}. "
                "List them in the order of the data's classes"
            )
        entries = mapping
    members = [
        [_number(name, one, known, count) for one in (entry if isinstance(entry, list) else [entry])]
        for name, entry in zip(ours, entries, strict=True)
    ]
    _check_members(ours, members)
    return members


def read_names(source: Sequence[str] | str | Path) -> list[str]:
    """Returns names of classes: as given, or from a file (a JSON list or ``{number: name}``, or one name a line).

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not isinstance(source, (str, Path)):
        return list(source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(
            f"teacher.classes.names must be a list or a file, got {path}, which is none. Check the path"
        )
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = [found[str(number)] for number in range(len(found))]
        return [str(name) for name in found]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} must be a JSON list of names, or name every number from 0, got something else. Mend the file"
        ) from None


def _in_our_order(ours: Sequence[str], mapping: Mapping[str, Any]) -> list[Any]:
    missing = [name for name in ours if name not in mapping]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"teacher.classes.map must name every class of the data, got nothing for {missing[0]!r}{others}. Add it"
        )
    for name in mapping:
        if name not in ours:
            raise ValueError(
                f"teacher.classes.map must name classes of the data, got {name!r}. {did_you_mean(name, ours)}"
            )
    return [mapping[name] for name in ours]


def _number(ours: str, entry: Any, known: Mapping[str, Sequence[int]], count: int) -> int:
    if isinstance(entry, str):
        if entry not in known:
            hint = did_you_mean(entry, known) if known else "Give teacher.classes.names, or numbers"
            raise ValueError(f"class {ours!r} must be made of the teacher's classes, got {entry!r}. {hint}")
        if len(known[entry]) > 1:
            raise ValueError(
                f"class {ours!r} must be made of one class of the teacher's for each name, got {entry!r}, which is the "
                f"name of {' and '.join(map(str, known[entry]))}. Give the number"
            )
        return known[entry][0]
    if not 0 <= entry < count:
        raise ValueError(
            f"class {ours!r} must be made of the teacher's classes 0 to {count - 1}, got {entry}. Check the map"
        )
    return entry


def _check_members(ours: Sequence[str], members: Sequence[Sequence[int]]) -> None:
    owner: dict[int, str] = {}
    for name, own in zip(ours, members, strict=True):
        if not own:
            raise ValueError(
                f"class {name!r} must be made of at least one class of the teacher's, got none. Add one"
            )
        for number in own:
            if number in owner:
                raise ValueError(
                    f"a class of the teacher must belong to one class, got {number} for {owner[number]!r} and "
                    f"{name!r}. Take it out of one"
                )
            owner[number] = name
