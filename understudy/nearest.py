"""Did you mean: the one way a wrong name is answered."""

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
