"""Running trained weights on images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.data.decode import decode
from understudy.data.masks import fit_image
from understudy.methods.deployment import deployed_model
from understudy.methods.term import build_term
from understudy.models import FullSize, Translated, create_model, load_weights
from understudy.report.examples import mask_picture


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image."""

    path: str
    classes: tuple[str, ...]
    """Most probable first."""
    probabilities: tuple[float, ...]
    """Softmax, 0 to 1, in the same order; of a segmentation the share of the image's pixels."""
    mask: Tensor | None = None
    """Class number of every pixel, ``(H, W)`` uint8 at the image's own size, of a network that says so."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the answer as JSON has it, without the mask."""
        return {"path": self.path, "classes": self.classes, "probabilities": self.probabilities}


@dataclass(frozen=True, slots=True)
class Predictor:
    """A trained network and how its images must look."""

    module: nn.Module
    """Takes images of the size, channels and normalisation below; a student with its own prepares them itself."""
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    """Height and width."""
    channels: int
    dense: bool = False
    """Whether it classifies pixels."""

    @torch.inference_mode()
    def __call__(self, path: str | Path, top: int = 3) -> Prediction:
        """Returns the ``top`` classes of one image, and its mask if pixels are classified.

        Raises:
            ValueError: the file is no image.
        """
        height, width = self.image_size
        square = height if height == width and not self.dense else None
        try:
            pixels = decode(Path(path), square, self.channels)
        except ValueError as error:
            raise ValueError(
                f"predict must be given images, got {path}, which cannot be read: {error}. Leave it out"
            ) from None
        if self.dense:
            mask = self._mask(pixels)
            shares = mask.flatten().bincount(minlength=len(self.classes)).double() / mask.numel()
            values, places = shares.topk(min(top, len(self.classes)))
            found = [
                (self.classes[i], v) for i, v in zip(places.tolist(), values.tolist(), strict=True) if v > 0
            ]
            names, parts = (tuple(column) for column in zip(*found, strict=True))
            return Prediction(str(path), names, parts, mask)
        if pixels.shape[1:] != self.image_size:
            got = f"{pixels.shape[1]}×{pixels.shape[2]}"
            raise ValueError(
                f"images must be {height}×{width} for this model, got {got} in {path}. Resize it"
            )
        probabilities = self.module(self._normalised(pixels)).softmax(dim=1)[0]
        values, places = probabilities.topk(min(top, len(self.classes)))
        return Prediction(str(path), tuple(self.classes[i] for i in places.tolist()), tuple(values.tolist()))

    def _normalised(self, pixels: NDArray[np.uint8]) -> Tensor:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (torch.tensor(pixels).unsqueeze(0) / 255 - mean) / std  # (1, C, H, W)

    def _mask(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Returns the class of every pixel: the image is scaled to fit as in training, the logits are scaled back."""
        height, width = pixels.shape[1:]
        fitted = fit_image(pixels, self.image_size)
        canvas = np.zeros((self.channels, *self.image_size), dtype=np.uint8)
        canvas[:, : fitted.shape[1], : fitted.shape[2]] = fitted
        logits = FullSize(self.module)(self._normalised(canvas))[:, :, : fitted.shape[1], : fitted.shape[2]]
        logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        return logits[0].argmax(dim=0).to(torch.uint8)


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
    mean, std = tuple(json.loads(about["mean"])), tuple(json.loads(about["std"]))
    own = json.loads(about.get("preprocess", "null"))
    own_channels = channels if own is None else {"grey": 1}.get(own["channels"], 3)
    module = create_model(about["model"], num_classes=len(classes), in_channels=own_channels, **options)
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
    if own is not None:
        size = None if own["image_size"] is None else (own["image_size"][0], own["image_size"][1])
        module = Translated(
            module, (mean, std), (own["mean"], own["std"]), image_size=size, channels=own["channels"]
        )
    dense = about.get("task") == "segmentation"
    return Predictor(module.eval(), classes, mean, std, (height, width), channels, dense)


def predict(source: str | Path, images: Sequence[str | Path], top: int = 3) -> list[Prediction]:
    """Returns what the model of a run says of each image."""
    predictor = load_predictor(source)
    return [predictor(image, top) for image in images]


def write_masks(predictor: Predictor, images: Sequence[str | Path], folder: Path) -> list[Path]:
    """Writes the mask of every image as a palette PNG whose entries are the class numbers.

    Raises:
        ValueError: the network classifies images, two images have one name, or a file is no image.
    """
    if not predictor.dense:
        raise ValueError(
            "out must be given with a network that classifies pixels, got one that classifies images. Leave it out"
        )
    names = [Path(image).with_suffix(".png").name for image in images]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"images must have names of their own for their masks, got {twice} twice. Give one at a time"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for image, name in zip(images, names, strict=True):
        mask = predictor(image).mask
        assert mask is not None
        mask_picture(mask.numpy(), len(predictor.classes)).save(folder / name)
        written.append(folder / name)
    return written
