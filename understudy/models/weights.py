"""Weights from a file into a network: safetensors or a checkpoint of tensors, never code."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from understudy.words import first_line

WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
"""Keys under which training scripts put the weights, beside optimiser and epoch."""


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Copies the weights in a file into a network; on an error the network is untouched.

    Args:
        net: of the architecture that the file was written for, with as many classes.
        path: see :func:`read_weights`. One more word before every name goes if the network has none such (``model.`` in
            checkpoints of Lightning).

    Raises:
        ValueError: as :func:`read_weights`; a tensor is missing, of another shape, or not the network's. The
            message names the first such tensor and counts the others.
    """
    expected = net.state_dict()
    given = _without_wrapper(read_weights(path), expected)
    problems = [
        f"{key} with shape {_shape(given.get(key))} in the file and {_shape(expected.get(key))} in the model"
        for key in (*expected, *(key for key in given if key not in expected))
        if key not in given or key not in expected or given[key].shape != expected[key].shape
    ]
    if problems:
        more = len(problems) - 1
        others = f" and {more} other{'s' if more > 1 else ''}" if more else ""
        raise ValueError(
            f"weights must fit the model, got {path} with {problems[0]}{others}. "
            "Check the model's name and its number of classes"
        )
    net.load_state_dict(given)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Returns the named tensors of a file, on the CPU.

    ``.safetensors``, or what ``torch.save`` wrote: plain, or under a key of :data:`WRAPPERS`. The prefix
    ``module.`` (of data parallel wrappers) goes if every name has it, ``_orig_mod.`` (of ``torch.compile``)
    wherever it stands.

    Nothing in the file is run: unpickling is restricted to tensors and plain containers, and to
    ``argparse.Namespace``, the options that published checkpoints carry beside the weights.

    Raises:
        ValueError: the file is missing, cannot be read, asks for code, or holds something else than
            named tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"weights must be a file, got {path}, which is none. Check the path")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state:
        raise ValueError(
            f"weights must be named tensors, got {path} with a {type(state).__name__}. "
            "Save model.state_dict()"
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"weights must be named tensors, got {path} with a {type(value).__name__} as {key!r}. "
                f"Save model.state_dict(), alone or under one of {', '.join(WRAPPERS)}"
            )
    return _plain_names(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"weights must be a whole safetensors file, got {path} ({first_line(error)}). "
            "Copy or save it again"
        ) from None


def _read_checkpoint(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about foreign pickles: the error below says it
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler fail in any way; none of them is our fault
        code = re.search(r"GLOBAL (\S+)", str(error))  # the wording of torch's refusal
        if code:
            raise ValueError(
                f"weights must be tensors only, got {path}, a pickle that asks for {code[1]}; "
                "nothing was run. Save model.state_dict() alone where the file was made"
            ) from None
        # torch's own words would advise to open the file without the restriction
        reason = "no checkpoint" if isinstance(error, pickle.UnpicklingError) else first_line(error)
        raise ValueError(
            f"weights must be a file of safetensors or torch.save, got {path} ({reason}). "
            "Copy or save it again"
        ) from None


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    while all(key.startswith("module.") for key in named):
        named = {key.removeprefix("module."): value for key, value in named.items()}
    return named


def _without_wrapper(given: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors without the name of a module that only the file has around all of them."""
    prefix = next(iter(given)).partition(".")[0] + "."
    if not all(key.startswith(prefix) for key in given) or any(key.startswith(prefix) for key in expected):
        return given
    return {key.removeprefix(prefix): value for key, value in given.items()}


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else str(tuple(tensor.shape))
