"""Running trained weights on images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.data.decode import decode
from understudy.data.masks import fit_image
from understudy.files import write_atomic
from understudy.job import check_one_run
from understudy.methods.deployment import deployed_model
from understudy.methods.term import build_term
from understudy.models import FullSize, Translated, create_model, load_weights
from understudy.report.boxes import SURE, box_picture
from understudy.report.examples import mask_picture


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image."""

    path: str
    classes: tuple[str, ...]
    """Most probable first."""
    probabilities: tuple[float, ...]
    """Softmax, 0 to 1, in the same order; of a segmentation the share of the image's pixels, where an image may have
    several classes each one's own sigmoid, and of a detector the score of each object."""
    mask: Tensor | None = None
    """Class number of every pixel, ``(H, W)`` uint8 at the image's own size, of a network that says so."""
    boxes: tuple[tuple[float, ...], ...] | None = None
    """Left, top, right and bottom in pixels of the image's own size, beside the classes, of a detector."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the answer as JSON has it, without the mask."""
        answer = {"path": self.path, "classes": self.classes, "probabilities": self.probabilities}
        return answer if self.boxes is None else answer | {"boxes": self.boxes}


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
    task: str = "classification"
    """Key of :data:`understudy.tasks.TASKS`."""
    resize: int | None = None
    """Pixels that an image's shorter side is scaled to before its centre is cut out; by default the square's side."""

    @property
    def dense(self) -> bool:
        """Whether it classifies pixels."""
        return self.task == "segmentation"

    @property
    def detects(self) -> bool:
        """Whether it finds objects."""
        return self.task == "detection"

    @torch.inference_mode()
    def __call__(self, path: str | Path, top: int = 3) -> Prediction:
        """Returns the ``top`` classes of one image, and its mask if pixels are classified.

        Of a detector: its objects, the ``top`` best, of a score of at least 0.05.

        Raises:
            ValueError: the file is no image.
        """
        height, width = self.image_size
        whole = self.dense or self.detects
        square = height if height == width and not whole else None
        try:
            pixels = decode(Path(path), square, self.channels, self.resize if square else None)
        except ValueError as error:
            raise ValueError(
                f"predict must be given images, got {path}, which cannot be read: {error}. Leave it out"
            ) from None
        if self.detects:
            return self._objects(str(path), pixels, top)
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
        logits = self.module(self._normalised(pixels))[0]
        probabilities = logits.sigmoid() if self.task == "multilabel" else logits.softmax(dim=0)
        values, places = probabilities.topk(min(top, len(self.classes)))
        return Prediction(str(path), tuple(self.classes[i] for i in places.tolist()), tuple(values.tolist()))

    def _normalised(self, pixels: NDArray[np.uint8]) -> Tensor:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (torch.tensor(pixels).unsqueeze(0) / 255 - mean) / std  # (1, C, H, W)

    def _fitted(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Returns the image scaled to fit as in training, black around, and its height and width there."""
        fitted = fit_image(pixels, self.image_size)
        canvas = np.zeros((self.channels, *self.image_size), dtype=np.uint8)
        canvas[:, : fitted.shape[1], : fitted.shape[2]] = fitted
        return canvas, (fitted.shape[1], fitted.shape[2])

    def _objects(self, path: str, pixels: NDArray[np.uint8], top: int) -> Prediction:
        """Returns the best objects, their boxes scaled back and cut at the image's edge."""
        canvas, (height, width) = self._fitted(pixels)
        scale = torch.tensor([pixels.shape[2] / width, pixels.shape[1] / height]).repeat(2)
        found = self.module(self._normalised(canvas))[0]
        found = found[found[:, 4] > 0][:top]
        boxes = (found[:, :4] * scale).minimum(torch.tensor([pixels.shape[2], pixels.shape[1]]).repeat(2))
        names = tuple(self.classes[int(k) - 1] for k in found[:, 5])
        return Prediction(path, names, tuple(found[:, 4].tolist()), None, tuple(map(tuple, boxes.tolist())))

    def _mask(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Returns the class of every pixel: the image is scaled to fit as in training, the logits are scaled back."""
        height, width = pixels.shape[1:]
        canvas, (down, across) = self._fitted(pixels)
        logits = FullSize(self.module)(self._normalised(canvas))[:, :, :down, :across]
        logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        return logits[0].argmax(dim=0).to(torch.uint8)


def load_predictor(source: str | Path) -> Predictor:
    """Returns the network of a run folder or of its ``student.safetensors``.

    Raises:
        ValueError: there are no such weights, or they do not say what they are.
    """
    path = Path(source)
    check_one_run(path, "predict")
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
    task = about.get("task", "classification")
    resize = int(about["resize"]) if "resize" in about else None
    return Predictor(module.eval(), classes, mean, std, (height, width), channels, task, resize)


def predict(source: str | Path, images: Sequence[str | Path], top: int = 3) -> list[Prediction]:
    """Returns what the model of a run says of each image.

    Args:
        source: a run folder, or its ``student.safetensors``.
        images: files, or folders, which stand for the images in them (:func:`image_files`).
        top: how many classes (or objects) to name.

    Raises:
        ValueError: there are no such weights, a folder has no images, or a file is none.
    """
    predictor = load_predictor(source)
    return [predictor(image, top) for image in image_files(images)]


def image_files(places: Sequence[str | Path]) -> list[Path]:
    """Returns files as they are and, for a folder, all images in it and below, sorted by path.

    What is an image is told by the ending of its name; hidden files and folders are passed over.

    Raises:
        ValueError: a folder has no images.
    """
    files = []
    for place in map(Path, places):
        found = _images_in(place) if place.is_dir() else [place]
        if not found:
            raise ValueError(
                f"predict must be given images, got the folder {place}, which has none. Check the path"
            )
        files += found
    return files


def _images_in(folder: Path) -> list[Path]:
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in endings
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def write_masks(predictor: Predictor, images: Sequence[str | Path], folder: Path) -> list[Path]:
    """Writes the mask of every image as a palette PNG whose entries are the class numbers.

    Of a detector the images are written with the boxes of the objects that have a score of at least 0.5.

    Raises:
        ValueError: the network classifies images, two images have one name, a picture would take the place of an image,
            or a file is no image.
    """
    if not (predictor.dense or predictor.detects):
        raise ValueError(
            "out must be given with a network that classifies pixels or finds objects, got one that classifies images. "
            "Leave it out"
        )
    names = [Path(image).with_suffix(".png").name for image in images]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"images must have names of their own for their masks, got {twice} twice. Give one at a time"
        )
    given = {Path(image).resolve() for image in images}
    if own := next((folder / name for name in names if (folder / name).resolve() in given), None):
        raise ValueError(
            f"out must not be where the images lie, got {own}, which is one. Name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in names]
    for image, path in zip(images, written, strict=True):
        answer = predictor(image, 100)
        if answer.boxes is not None:
            picture = _boxed(image, answer, predictor)
        else:
            assert answer.mask is not None
            picture = mask_picture(answer.mask.numpy(), len(predictor.classes))
        write_atomic(path, partial(picture.save, format="PNG"))
    return written


def _boxed(image: str | Path, answer: Prediction, predictor: Predictor) -> Image.Image:
    """Returns an image with the boxes of the objects that are rather there than not."""
    assert answer.boxes is not None
    rows = [
        [*box, predictor.classes.index(name)]
        for box, name, score in zip(answer.boxes, answer.classes, answer.probabilities, strict=True)
        if score >= SURE
    ]
    pixels = decode(Path(image), None, 3)
    return box_picture(Image.fromarray(pixels.transpose(1, 2, 0)), rows, len(predictor.classes))
