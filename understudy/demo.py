"""The main job on data that ship with a dependency: teacher, student alone, KD and DHKD on digits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from understudy.engine.console import Console
from understudy.files import write_json
from understudy.run import train
from understudy.study import Study, study

IMAGES = 300
"""Labelled images the students see: with all of them every small net reaches 99% and differences drown."""
MARK = "demo.json"
"""The file that says that a folder, with all that is in it, is a demo's and may be replaced."""


def demo(output: str = "runs/demo", *, quiet: bool = False) -> Study:
    """Trains a teacher on all of digits' training part, and a small student on 300 of its images in three ways.

    Everything runs on the CPU and touches no network.

    Args:
        output: folder of all runs and of the report; an earlier demo there is replaced.
        quiet: print nothing but the table.

    Returns:
        the study: its folder, and the content of ``study.json``.

    Raises:
        ValueError: the folder holds something that is no demo.
    """
    folder = Path(output)
    if (folder / MARK).is_file():
        shutil.rmtree(folder)
    elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(
            f"output must be a new folder or an earlier demo's, got {folder}, which holds other things. Choose "
            "another, or delete it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / MARK, {"format": 1, "what": "understudy demo: this folder is replaced by the next one"}
    )
    console = Console(quiet=quiet)
    console.say(
        f"A teacher learns from all of digits' training images, then a student from {IMAGES} of them."
    )
    recipe: dict[str, Any] = {
        "seed": 0,
        "data": {"name": "digits"},
        "student": {"model": "cnn_small"},
        "train": {
            "epochs": 20,
            "batch_size": 64,
            "device": "cpu",
            "threads": 1,  # as fast as two on steps this small, and not slowed by whatever else the machine does
            "optimizer": {"lr": 0.05},
            "schedule": {"name": "cosine", "warmup_epochs": 1},
        },
        "output": str(folder / "teacher"),
    }
    teacher = train(recipe, quiet=True)
    console.say(f"The teacher is right on {teacher.metrics['last']['test/acc1']:.1f}% of the test images.")
    recipe |= {
        "data": {"name": "digits", "limit": IMAGES},
        "student": {"model": "cnn_tiny"},
        "teacher": {
            "model": "cnn_small",
            "weights": str(teacher.path / "student.safetensors"),
            "tables": str(folder / "tables"),
        },
        "train": recipe["train"] | {"epochs": 60},
        "study": {"methods": ["kd", "dhkd"], "seeds": [0, 1, 2]},
        "output": output,
    }
    return study(
        recipe,
        quiet=True,
        title="Demo: does a student learn more digits from a teacher than from labels alone?",
    )
