"""What weights say of the images and classes they were made with."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
from safetensors import SafetensorError, safe_open

from understudy.models.detection import TORCHVISION_DETECTORS
from understudy.models.translated import Channels

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Published:
    """The world of a set of weights, as far as it is known."""

    mean: tuple[float, ...] | None = None
    """Of every channel, 0 to 1."""
    std: tuple[float, ...] | None = None
    image_size: tuple[int, int] | None = None
    """Height and width."""
    classes: tuple[str, ...] | None = None
    num_classes: int | None = None
    channels: Channels | None = None


def published(
    name: str, weights: str | Path | None = None, pretrained: bool = False, version: str = "DEFAULT"
) -> Published:
    """Returns what is known of a network's weights; nothing is downloaded for it.

    Args:
        name: of the network, as :func:`understudy.models.create_model` takes it.
        weights: a file; one that a run wrote says everything, others nothing.
        pretrained: whether the library's own weights are meant: torchvision, timm and Hugging Face describe theirs.
        version: of torchvision's.
    """
    if weights is not None:
        return _of_run(Path(weights).expanduser())
    source, _, rest = name.partition("/")
    if not pretrained:
        return Published()
    if source == "torchvision":
        return _of_torchvision(rest, version)
    if source == "timm":
        return _of_timm(rest)
    if source == "hf":
        return _of_hugging_face(rest)
    return Published()


def built_with(path: Path, name: str) -> dict[str, Any]:
    """Returns the options of the network of a name whose weights a run wrote into a file; none if it says none."""
    about = _about(path)
    if about.get("model") != name:
        return {}
    try:
        found = json.loads(about.get("options", "{}"))
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _about(path: Path) -> Mapping[str, str]:
    """Returns what a file of weights says of itself; nothing if it is damaged, which loading it says."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _of_run(path: Path) -> Published:
    if path.suffix != ".safetensors":
        return Published()
    about = _about(path)
    if not {"mean", "std", "image_size", "classes"} <= about.keys():
        return Published()
    mean, std, size, classes = (tuple(json.loads(about[k])) for k in ("mean", "std", "image_size", "classes"))
    if "preprocess" not in about:
        return Published(mean, std, size, classes, len(classes))
    own = json.loads(about["preprocess"])  # of the network itself: what was deployed prepares its images
    return Published(
        tuple(own["mean"]),
        tuple(own["std"]),
        tuple(own["image_size"] or size),
        classes,
        len(classes),
        own["channels"],
    )


def _of_torchvision(name: str, version: str) -> Published:
    versions: Any = torchvision.models.get_model_weights(name)
    weights = versions[
        version if version in versions.__members__ else "DEFAULT"
    ]  # another is refused where it is read
    classes = tuple(weights.meta["categories"])
    transforms = weights.transforms()
    if name in TORCHVISION_DETECTORS:  # which normalise inside; the first class is the background
        return Published(IMAGENET_MEAN, IMAGENET_STD, None, classes[1:], len(classes) - 1)
    crop = getattr(transforms, "crop_size", None)  # segmentation networks take images of any size
    size = None if crop is None else (crop[0], crop[0])
    return Published(tuple(transforms.mean), tuple(transforms.std), size, classes, len(classes))


def _of_timm(name: str) -> Published:
    about = importlib.import_module("timm").get_pretrained_cfg(name)
    if about is None:
        return Published()
    return Published(
        tuple(about.mean), tuple(about.std), tuple(about.input_size[1:]), None, about.num_classes
    )


def _of_hugging_face(name: str) -> Published:
    config, images = (_json_beside(name, file) for file in ("config.json", "preprocessor_config.json"))
    labels = {int(number): str(label) for number, label in config.get("id2label", {}).items()}
    classes = tuple(labels[number] for number in sorted(labels)) or None
    told = Published(classes=classes, num_classes=None if classes is None else len(classes))
    if (
        not images
        or not images.get("do_rescale", True)
        or abs(images.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6
    ):
        return told
    size = images.get("crop_size") if images.get("do_center_crop") else images.get("size")
    plain = not images.get("do_normalize", True)
    return Published(
        (0.0,) * 3 if plain else _numbers(images.get("image_mean")),
        (1.0,) * 3 if plain else _numbers(images.get("image_std")),
        _size(size),
        told.classes,
        told.num_classes,
    )


def _json_beside(name: str, file: str) -> dict[str, Any]:
    """Returns a JSON file of a local folder, or of a hub's model as far as it lies in the cache."""
    path: str | Path | None = Path(name).expanduser() / file
    if not Path(name).expanduser().is_dir():
        path = importlib.import_module("huggingface_hub").try_to_load_from_cache(name, file)
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _numbers(values: Any) -> tuple[float, ...] | None:
    return tuple(map(float, values)) if isinstance(values, list) else None


def _size(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if not isinstance(size, dict):
        return None
    if "shortest_edge" in size:
        return size["shortest_edge"], size["shortest_edge"]
    return (size["height"], size["width"]) if {"height", "width"} <= size.keys() else None
