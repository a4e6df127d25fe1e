"""Writes a commented config from a few questions or flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from understudy.config import load_config
from understudy.data import DATASETS
from understudy.files import write_text
from understudy.methods.presets import PRESETS
from understudy.nearest import did_you_mean

DEFAULTS: dict[str, Any] = {
    "data": "imagefolder",
    "train": "path/to/train",
    "test": "path/to/test",
    "teacher": "resnet32x4",
    "weights": "runs/teacher/student.safetensors",
    "student": "resnet8x4",
    "method": "dhkd",
    "epochs": 60,
}

QUESTIONS = {
    "data": "Data set ({choices})",
    "train": "Training images (parquet file, or folder with one folder a class)",
    "test": "Test images",
    "teacher": "Teacher's model",
    "weights": "File with the teacher's weights (made by: understudy train)",
    "student": "Student's model",
    "method": "Method ({presets})",
    "epochs": "Epochs",
}

TEMPLATE = """\
# The teacher first, unless you have its weights; then the student under it; then what it says of an image:
#   understudy train {path} student.model={teacher} output=runs/teacher
#   understudy distill {path}
#   understudy predict runs/{method} some/image.png
seed: 0
data:
  name: {data}{files}
  val: 0.1                # share of the training images held out; what is chosen is chosen on it
  # augment: {{pad: 4, randaugment: {{ops: 2, magnitude: 9}}}}   # or {{name: resized_crop}}, {{autoaugment: imagenet}}
  # mix: {{name: mixup, alpha: 0.2}}                           # or cutmix
  # balance: 1.0          # rare classes as often as the others
  # label_noise: {{share: 0.2, kind: symmetric}}               # wrong labels on purpose
  # resident: false       # decode batch by batch, by data.workers processes; auto does so where memory is short
teacher:
  model: {teacher}
  weights: {weights}
student:
  model: {student}
method: {method}              # see: understudy list presets; or write the terms out under losses:
train:
  epochs: {epochs}
  batch_size: 64
  optimizer: {{name: sgd, lr: 0.05, momentum: 0.9, weight_decay: 5.0e-4}}
  schedule: {{name: cosine, warmup_epochs: 1}}
output: runs/{method}
"""


def write_config(path: Path, answers: Mapping[str, Any], *, ask: bool) -> None:
    """Writes the config and reads it back once, so that what is written is valid.

    Args:
        path: file to write; never overwritten.
        answers: what is known already, by the keys of ``DEFAULTS``.
        ask: whether to ask for the rest on the terminal; otherwise defaults are taken.

    Raises:
        ValueError: the file exists, or an answer names something that does not.
    """
    if path.exists():
        raise ValueError(f"init must not overwrite a file, got {path}. Choose another name")
    chosen = dict(answers)
    for key, default in DEFAULTS.items():
        if key in ("train", "test") and chosen.get("data") not in ("parquet", "imagefolder"):
            continue
        if key not in chosen:
            question = QUESTIONS[key].format(choices=", ".join(DATASETS), presets=", ".join(PRESETS))
            chosen[key] = typer.prompt(question, default=default) if ask else default
    for key, choices in (("data", DATASETS), ("method", PRESETS)):
        if chosen[key] not in choices:
            raise ValueError(
                f"{key} must be known, got {chosen[key]!r}. {did_you_mean(str(chosen[key]), choices)}"
            )
    files = "".join(f"\n  {key}: {chosen[key]}" for key in ("train", "test") if key in chosen)
    text = TEMPLATE.format(**{**chosen, "path": path, "files": files})
    write_text(path, text)
    load_config(path)
