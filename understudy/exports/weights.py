"""safetensors: the deployable weights as the run wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from understudy.exports.finished import FinishedRun
from understudy.files import write_atomic


def write_weights(path: Path, run: FinishedRun) -> dict[str, Any]:
    """Copies the run's ``student.safetensors``, which says in its metadata what it is.

    Returns:
        the figures for ``export.json``.
    """
    content = (run.folder / "student.safetensors").read_bytes()
    write_atomic(path, lambda file: file.write(content))
    return {"bytes": len(content), "parameters": run.parameters}
