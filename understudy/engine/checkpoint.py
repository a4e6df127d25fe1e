"""Checkpoints: everything a run needs to go on exactly, written so that a crash never costs the last good one."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from understudy.files import write_atomic

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` (tensors, numbers, strings, lists, dictionaries) atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns a saved state, tensors on the CPU; nothing in the file is executed.

    Raises:
        ValueError: the file is missing, damaged, or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(
            f"a run to go on with must have a checkpoint, got none at {path}. Start it anew"
        ) from None
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ValueError(
            f"checkpoint {path} must be whole, got a damaged file ({reason}). Delete it and start anew"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        got = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ValueError(
            f"checkpoint {path} must have format {FORMAT}, got {got}. Use the version that wrote it"
        )
    return state
