"""``torch.export``: the network as a program of tensor operations, for any number of images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from understudy.files import write_atomic


def capture(module: nn.Module, channels: int, image_size: tuple[int, int], name: str) -> ExportedProgram:
    """Returns the program of a network in eval mode; traces of the machine it was made on are removed.

    Args:
        module: maps images to logits, on the CPU.
        channels: of the images.
        image_size: height and width; a program is for one size.
        name: of the network, for messages.

    Raises:
        ValueError: torch cannot turn the network into a program, or only for a fixed number of images.
    """
    example = torch.zeros(2, channels, *image_size)  # two: torch takes a size of 0 or 1 for a constant
    module = copy.deepcopy(module).eval()  # tracing leaves marks on a module
    module.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue] (saved as raw bytes)
    try:
        with torch.no_grad():
            program = torch.export.export(
                module, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False
            )
    except Exception as error:  # user code is traced: it may fail in any way
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        reason = lines[1] if lines[0].startswith("Constraints violated") and len(lines) > 1 else lines[0]
        raise ValueError(
            f"{name} must be a network that torch.export can follow for any number of images, got "
            f"{type(error).__name__}: {reason[:200]}. Remove what depends on values or on the batch size, or "
            "export to safetensors"
        ) from None
    for part in program.graph_module.modules():
        for node in getattr(part, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)  # file paths of this machine
    return program


def write_program(path: Path, program: ExportedProgram) -> dict[str, Any]:
    """Writes a program as ``.pt2``; ``torch.export.load`` reads it.

    Returns:
        the figures for ``export.json``.
    """
    write_atomic(path, lambda file: torch.export.save(program, file))
    return {"bytes": path.stat().st_size, "torch": torch.__version__}
