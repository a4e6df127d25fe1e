"""Models: the CIFAR zoo, MobileNet-V1, small ones, those for pixels and objects; how any name becomes a module."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from understudy.models.adapters import build, fetching, imported_model, timm_model, torchvision_model
from understudy.models.detection import DETECTORS, TORCHVISION_DETECTORS, torchvision_detector
from understudy.models.detection import Detector as Detector
from understudy.models.hugging_face import hugging_face_model
from understudy.models.mobilenet_v1 import MobileNetV1
from understudy.models.mobilenet_v2 import MobileNetV2
from understudy.models.onnx import load_onnx as load_onnx
from understudy.models.program import load_program as load_program
from understudy.models.published import built_with
from understudy.models.resnet import ResNet
from understudy.models.resnet18 import BasicBlock, Bottleneck, ResNetFourStage
from understudy.models.segmentation import (
    SEGMENTERS,
    SMALL_ROLES,
    TORCHVISION,
    Segmenter,
    SmallFCN,
    torchvision_segmenter,
)
from understudy.models.segmentation import FullSize as FullSize
from understudy.models.shufflenet_v1 import ShuffleNetV1
from understudy.models.shufflenet_v2 import ShuffleNetV2
from understudy.models.small import CNN
from understudy.models.translated import Translated as Translated
from understudy.models.translated import untranslated
from understudy.models.vgg import VGG
from understudy.models.weights import load_weights as load_weights
from understudy.models.wrn import WideResNet
from understudy.words import did_you_mean

SAVED = (".pt2", ".onnx")
"""Ends of the names of files that are a whole network, weights and all."""
MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn_small": partial(CNN, (16, 16, 32, 64)),
    "cnn_tiny": partial(CNN, (8, 8, 16, 24)),
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": partial(MobileNetV2, 6, 0.5),
    "resnet110": partial(ResNet, 110, (16, 16, 32, 64)),
    "resnet14": partial(ResNet, 14, (16, 16, 32, 64)),
    "resnet18": partial(ResNetFourStage, BasicBlock, (2, 2, 2, 2)),
    "resnet20": partial(ResNet, 20, (16, 16, 32, 64)),
    "resnet32": partial(ResNet, 32, (16, 16, 32, 64)),
    "resnet32x4": partial(ResNet, 32, (32, 64, 128, 256)),
    "resnet38x2": partial(ResNet, 38, (16, 32, 64, 128)),
    "resnet44": partial(ResNet, 44, (16, 16, 32, 64)),
    "resnet50": partial(ResNetFourStage, Bottleneck, (3, 4, 6, 3)),
    "resnet56": partial(ResNet, 56, (16, 16, 32, 64)),
    "resnet8": partial(ResNet, 8, (16, 16, 32, 64)),
    "resnet8x4": partial(ResNet, 8, (32, 64, 128, 256)),
    "shufflenet_v1": partial(ShuffleNetV1, (240, 480, 960), (4, 8, 4), 3),
    "shufflenet_v2": partial(ShuffleNetV2, (116, 232, 464, 1024), (3, 7, 3)),
    "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "wrn_16_1": partial(WideResNet, 16, 1),
    "wrn_16_2": partial(WideResNet, 16, 2),
    "wrn_16_4": partial(WideResNet, 16, 4),
    "wrn_28_2": partial(WideResNet, 28, 2),
    "wrn_28_4": partial(WideResNet, 28, 4),
    "wrn_40_1": partial(WideResNet, 40, 1),
    "wrn_40_2": partial(WideResNet, 40, 2),
}
"""Name -> what builds it, given ``num_classes`` and ``in_channels``. Parameter names and shapes are those of
the CRD and mdistiller zoo, so published teachers load."""

FAMILIES: dict[str, str] = {
    "cnn": "cnn",
    "mobilenet": "mobilenet",
    "resnet": "resnet",
    "resnext": "resnet",
    "shufflenet": "shufflenet",
    "vgg": "vgg",
    "wide_resnet": "resnet",  # torchvision's and timm's are ordinary ResNets with wider bottlenecks
    "wideresnet": "wrn",
    "wrn": "wrn",
}
"""How a model's or class's name begins -> its family."""

_LAYERS_OF_THREE = {"stage_1": "layer1", "stage_2": "layer2", "stage_3": "layer3"}
ROLES: dict[type[nn.Module], dict[str, str]] = {
    CNN: {"stage_0": "stem", "stage_1": "stage1", "stage_2": "stage2", "stage_3": "stage3"},
    MobileNetV1: {
        "stage_0": "model.0",
        "stage_1": "model.3",
        "stage_2": "model.5",
        "stage_3": "model.11",
        "stage_4": "model.13",
    },
    MobileNetV2: {
        "stage_0": "conv1",
        "stage_1": "blocks.1",
        "stage_2": "blocks.2",
        "stage_3": "blocks.4",
        "stage_4": "blocks.6",
        "stage_last": "conv2",
    },
    ResNet: {"stage_0": "relu", **_LAYERS_OF_THREE},
    ResNetFourStage: {"stage_0": "relu", **_LAYERS_OF_THREE, "stage_4": "layer4"},
    ShuffleNetV1: {"stage_0": "relu", **_LAYERS_OF_THREE},
    SmallFCN: SMALL_ROLES,
    ShuffleNetV2: {"stage_0": "relu1", **_LAYERS_OF_THREE, "stage_last": "relu2"},
    VGG: {
        "stage_0": "block0",
        "stage_1": "block1",
        "stage_2": "block2",
        "stage_3": "block3",
        "stage_4": "block4",
    },
    WideResNet: {
        "stage_0": "conv1",
        "stage_1": "block2.layer.0.relu1",
        "stage_2": "block3.layer.0.relu1",
        "stage_3": "relu",
    },
}
"""Class -> role -> path of the module whose output has that role. ``stage_last`` stands only where the last
map before pooling is not the last stage. All stages end in an activation, save MobileNet-V2's (linear
bottlenecks) and the stem of :class:`WideResNet`, whose pre-activation is the stage itself."""


def create_model(
    name: str,
    num_classes: int,
    *,
    weights: str | Path | None = None,
    pretrained: bool = False,
    in_channels: int = 3,
    **kwargs: Any,
) -> nn.Module:
    """Returns a network by name, in training mode; nothing is downloaded unless ``pretrained``.

    Args:
        name: one of :func:`model_names`, :func:`segmenter_names` or :func:`detector_names`, ``torchvision/NAME``,
            ``timm/NAME``, ``hf/FOLDER`` or ``hf/NAME`` (transformers), ``package.module:factory``, or a file: a
            ``torch.export`` program (``.pt2``) or an ONNX file, as a teacher that shows its logits only.
        num_classes: length of the logits; of a detector without the background, which it adds.
        weights: a file to load (:func:`load_weights`).
        pretrained: downloads torchvision's or timm's weights, or the hub's; reads those of a local ``hf/FOLDER``. A
            factory of yours may take it too.
        in_channels: of the images.
        kwargs: for the network's own constructor, over those that a run's weights were built with.

    Raises:
        ValueError: nothing has that name; an argument does not suit the network; the weights do not fit.

    Example:
        >>> from understudy.models import create_model
        >>> sum(p.numel() for p in create_model("resnet8x4", num_classes=100).parameters())
        1233540
    """
    for key, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{key} must be at least 1, got {value}. Look at the data")
    if weights is not None and pretrained:
        raise ValueError(
            f"weights and pretrained must not both be given, got {weights} and true. Leave one out"
        )
    if name.endswith(SAVED):
        return _saved_program(name, weights, pretrained)
    inherited = {} if weights is None else built_with(Path(weights).expanduser(), name)
    inherited = {key: value for key, value in inherited.items() if key not in kwargs}
    fetched = pretrained and ":" not in name and not name.startswith("hf/")  # who tell of it themselves
    with fetching(name) if fetched else nullcontext():
        net = _network(
            name, num_classes, in_channels=in_channels, pretrained=pretrained, **inherited, **kwargs
        )
    if inherited:
        brought = inherited | getattr(net, "brought", {})
        net.brought = brought  # pyright: ignore[reportArgumentType] (its own weights' file says them, too)
    if weights is not None:
        load_weights(net, weights)
    return net


def _network(name: str, num_classes: int, *, in_channels: int, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Returns the network of a name, wherever it comes from."""
    source, _, rest = name.partition("/")
    if source == "torchvision" and rest in TORCHVISION:
        return build(
            name,
            partial(torchvision_segmenter, rest),
            num_classes=num_classes,
            in_channels=in_channels,
            pretrained=pretrained,
            **kwargs,
        )
    given: dict[str, Any] = {"in_channels": in_channels, "pretrained": pretrained, **kwargs}
    if source == "torchvision" and rest in TORCHVISION_DETECTORS:
        return build(name, partial(torchvision_detector, rest), num_classes=num_classes, **given)
    if source == "torchvision" and rest:
        return torchvision_model(rest, num_classes, **given)
    if source == "timm" and rest:
        return timm_model(rest, num_classes, **given)
    if source == "hf" and rest:
        return hugging_face_model(rest, num_classes, **given)
    if ":" in name:
        return imported_model(name, num_classes, **given)
    return _zoo_model(name, num_classes=num_classes, **given)


def _saved_program(path: str, weights: str | Path | None, pretrained: bool) -> nn.Module:
    """Returns a saved program, for a teacher: it answers with logits only and cannot be trained."""
    if weights is not None or pretrained:
        raise ValueError(
            f"a saved program must come with its own weights, got others for {path}. Leave weights out"
        )
    return load_program(path) if path.endswith(".pt2") else load_onnx(path)


def model_names() -> list[str]:
    """Returns the names of the zoo, sorted."""
    return sorted(MODELS)


def segmenter_names() -> list[str]:
    """Returns the names of the segmentation networks that are not torchvision's, sorted."""
    return sorted(SEGMENTERS)


def detector_names() -> list[str]:
    """Returns the names of the detectors that are not torchvision's, sorted."""
    return sorted(DETECTORS)


def backbone_alone(name: str) -> bool:
    """Returns whether ``pretrained`` gives a network the weights of its backbone alone, so that it must be trained."""
    return name in SEGMENTERS or name in DETECTORS


def family(model: str | nn.Module) -> str:
    """Returns the family of a network, by which DHKD chooses its head: one of the values of ``FAMILIES``.

    Args:
        model: the network itself, or its name (``"torchvision/resnet18"``).

    Returns:
        The family; for a network of none, its class's name (or what was given, without its source).

    Example:
        >>> from understudy.models import family
        >>> family("resnet8x4"), family("torchvision/resnet18"), family("wrn_40_2")
        ('resnet', 'resnet', 'wrn')
    """
    if isinstance(model, nn.Module) and isinstance(inner := untranslated(model), Segmenter | Detector):
        return inner.family
    full = type(untranslated(model)).__name__ if isinstance(model, nn.Module) else model
    name = full.rpartition("/")[2].rpartition(":")[
        2
    ]  # without torchvision/, timm/ or the module it comes from
    for prefix, result in FAMILIES.items():
        if name.lower().startswith(prefix):
            return result
    return name


def known_roles(module: nn.Module) -> dict[str, str] | None:
    """Returns where the stages of one of our networks end (role -> module path), ``None`` for any other."""
    inner = untranslated(module)
    if isinstance(inner, Detector):
        return None  # it names what it shows itself
    roles = inner.roles if isinstance(inner, Segmenter) else ROLES.get(type(inner))
    return None if roles is None else dict(roles)


def _zoo_model(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    builder = MODELS.get(name) or SEGMENTERS.get(name) or DETECTORS.get(name)
    if builder is None:
        elsewhere = f"Did you mean 'torchvision/{name}'? " if name in torchvision.models.list_models() else ""
        raise ValueError(
            "model must be in the zoo, or be torchvision/NAME, timm/NAME, hf/NAME or package.module:factory, "
            f"got {name!r}. {elsewhere}{did_you_mean(name.lower(), [*MODELS, *SEGMENTERS, *DETECTORS])}"
        )
    if pretrained and "pretrained" in inspect.signature(builder).parameters:  # of a backbone
        return build(name, builder, pretrained=True, **kwargs)
    if pretrained:
        raise ValueError(
            f"pretrained must be false for {name}, got true: the zoo has no weights to download. "
            "Give weights: FILE"
        )
    return build(name, builder, **kwargs)
