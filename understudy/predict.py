"""Running trained weights on images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from understudy.data.decode import decode
from understudy.methods.deployment import deployed_model
from understudy.methods.term import build_term
from understudy.models import create_model, load_weights


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image."""

    path: str
    classes: tuple[str, ...]
    """Most probable first."""
    probabilities: tuple[float, ...]
    """Softmax, 0 to 1, in the same order."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """A trained network and how its images must look."""

    module: nn.Module
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    """Height and width."""
    channels: int

    @torch.inference_mode()
    def __call__(self, path: str | Path, top: int = 3) -> Prediction:
        """Returns the ``top`` classes of one image.

        Raises:
            ValueError: the file is no image.
        """
        height, width = self.image_size
        try:
            pixels = decode(Path(path), height if height == width else None, self.channels)
        except ValueError as error:
            raise ValueError(
                f"predict must be given images, got {path}, which cannot be read: {error}. Leave it out"
            ) from None
        if pixels.shape[1:] != self.image_size:
            got = f"{pixels.shape[1]}×{pixels.shape[2]}"
            raise ValueError(
                f"images must be {height}×{width} for this model, got {got} in {path}. Resize it"
            )
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        image = (torch.tensor(pixels).unsqueeze(0) / 255 - mean) / std  # (1, C, H, W)
        probabilities = self.module(image).softmax(dim=1)[0]
        values, places = probabilities.topk(min(top, len(self.classes)))
        return Prediction(str(path), tuple(self.classes[i] for i in places.tolist()), tuple(values.tolist()))


def load_predictor(source: str | Path) -> Predictor:
    """Returns the network of a run folder or of its ``student.safetensors``.

    Raises:
        ValueError: there are no such weights, or they do not say what they are.
    """
    path = Path(source)
    path = path / "student.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"predict must be given a finished run or its student.safetensors, got {source}. Check the path"
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
    except SafetensorError:
        raise ValueError(
            f"weights must be safetensors written by a run, got {path}. Give the run's folder"
        ) from None
    missing = [
        key for key in ("model", "classes", "mean", "std", "image_size", "channels") if key not in about
    ]
    if missing:
        raise ValueError(
            f"weights must say what they are, got {path} without {', '.join(missing)}. Give a run's weights"
        )
    classes = tuple(json.loads(about["classes"]))
    height, width = json.loads(about["image_size"])
    channels = int(about["channels"])
    options = json.loads(about.get("options", "{}"))
    module = create_model(about["model"], num_classes=len(classes), in_channels=channels, **options)
    if "deployed" in about:
        parts = json.loads(about["deployed"])
        module = deployed_model(
            build_term(parts["term"]).method,
            module,
            create_model(
                parts["teacher"], num_classes=len(classes), in_channels=channels, **parts.get("options", {})
            ),
            torch.zeros(2, channels, height, width),
            student_taps=parts["taps"][0],
            teacher_taps=parts["taps"][1],
        )
    load_weights(module, path)
    mean, std = tuple(json.loads(about["mean"])), tuple(json.loads(about["std"]))
    return Predictor(module.eval(), classes, mean, std, (height, width), channels)


def predict(source: str | Path, images: Sequence[str | Path], top: int = 3) -> list[Prediction]:
    """Returns what the model of a run says of each image."""
    predictor = load_predictor(source)
    return [predictor(image, top) for image in images]
