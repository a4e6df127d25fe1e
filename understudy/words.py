"""Words of error messages that are the same everywhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Returns the end of an error message: the nearest choice if one is near, and all choices if they are few."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return (
        f"{hint}Choose from: {', '.join(choices)}"
        if len(choices) <= 40
        else hint.strip() or "See understudy list"
    )


def first_line(error: BaseException, most: int = 150) -> str:
    """Returns what another library says of an error, in one line of at most ``most`` characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
