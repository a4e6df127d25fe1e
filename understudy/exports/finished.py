"""What an export starts from: a run that is finished."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from understudy.build import read_data
from understudy.config import Config, load_config
from understudy.data import EvalLoader, Splits
from understudy.data.images import ImageSet
from understudy.files import read_json
from understudy.job import check_one_run
from understudy.methods.term import build_terms
from understudy.models import FullSize
from understudy.models.published import built_with
from understudy.predict import Predictor, load_predictor
from understudy.result import count_parameters
from understudy.tasks import Task, task_named


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run folder, read."""

    folder: Path
    config: Config
    result: dict[str, Any]
    """The content of ``result.json``."""
    predictor: Predictor
    """The deployable network on the CPU, in eval mode, and how its images must look."""

    @property
    def transplanted(self) -> bool:
        """Whether the deployable network is not the config's student: a term put another classifier in."""
        return _transplanted(self.config)

    @property
    def task(self) -> Task:
        """What the network is for."""
        return task_named(self.result.get("task"))

    @property
    def deployed(self) -> nn.Module:
        """The network as other formats hold it."""
        return self.full_size(self.predictor.module)

    def full_size(self, module: nn.Module) -> nn.Module:
        """Returns a network that answers at the size of its images, if pixels are classified."""
        return FullSize(module).eval() if self.task.name == "segmentation" else module

    @property
    def parameters(self) -> int:
        """Number of the deployable network's parameters."""
        return count_parameters(self.predictor.module)

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Returns the run in a folder.

        Raises:
            ValueError: the folder holds no run, or one that is not finished.
        """
        check_one_run(folder, "export")
        if not (folder / "config.yaml").is_file():
            raise ValueError(
                f"export must be given a run folder, got {folder} without a config.yaml. Check the path"
            )
        path = folder / "result.json"
        result = read_json(path) if path.is_file() else {}
        status = result.get("status", "unfinished")
        if status != "finished":
            raise ValueError(
                f"export must be given a finished run, got {folder}, which is {status}. "
                f"Go on with: understudy resume {shlex.quote(str(folder))}"
            )
        config = load_config(folder / "config.yaml")
        return cls(folder, config, result, load_predictor(folder))

    def data(self) -> Splits:
        """Returns the images of the run.

        Raises:
            ValueError: they cannot be read, or are no longer those the run was trained on.
        """
        data = read_data(self.config.data)
        now = (data.classes, data.image_size, data.channels)
        if now != (self.predictor.classes, self.predictor.image_size, self.predictor.channels):
            raise ValueError(
                f"the data of {self.folder} must be those it was trained on, got other classes, sizes or channels. "
                "Put the data back, or export to safetensors or pt2, which need none"
            )
        return data

    def batches(self, images: ImageSet, size: int = 100) -> EvalLoader:
        """Returns batches of a set, normalised as the network expects."""
        return EvalLoader(images, batch_size=size, mean=self.predictor.mean, std=self.predictor.std)

    def about(self) -> dict[str, str]:
        """Returns what a file must say to be used alone, under the names that ``student.safetensors`` uses.

        All values are ASCII: whatever is in a class's name is escaped as JSON does.
        """
        predictor = self.predictor
        options = built_with(self.folder / "student.safetensors", self.config.student.model)
        return {
            "model": self.config.student.model,
            "classes": json.dumps(predictor.classes),
            "mean": json.dumps(predictor.mean),
            "std": json.dumps(predictor.std),
            "image_size": json.dumps(predictor.image_size),
            "channels": str(predictor.channels),
            **({} if predictor.resize is None else {"resize": str(predictor.resize)}),
            **({"task": self.task.name} if self.task.name != "classification" else {}),
            **({"options": json.dumps(options)} if options else {}),
        }


def _transplanted(config: Config) -> bool:
    return any(term.method.replaces_classifier for term in build_terms(config.losses))
