"""Networks that classify every pixel: torchvision's, smaller ones on ResNet-18 and -34, and small ones of our own.

All return the map of logits as their last 1×1 convolution makes it, at a quarter to a sixteenth of the image's size;
whoever reads it brings it to the size that is wanted (:class:`FullSize`, or :mod:`understudy.tasks.segmentation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from understudy.models.initialisation import init_convolutions

TORCHVISION = frozenset(torchvision.models.list_models(module=segmentation))
"""Names of torchvision's segmentation networks, without ``torchvision/``."""

_RESNET = {"stage_0": "backbone.relu", **{f"stage_{k}": f"backbone.layer{k}" for k in range(1, 5)}}
_MOBILENET_V3 = {
    f"stage_{k}": f"backbone.{i}" for k, i in enumerate((1, 3, 6, 12, 16))
}  # ahead of each stride


class Segmenter(nn.Module):
    """A backbone and a classifier of its pixels, with torchvision's parameter names (without its auxiliary classifier).

    Args:
        backbone: returns its maps by name.
        classifier: makes the logits of the map ``out``, or of all maps (LR-ASPP).
        roles: role -> module path, ``head`` among them.
        family: of the backbone, by which DHKD chooses its head.
    """

    def __init__(
        self, backbone: nn.Module, classifier: nn.Module, roles: Mapping[str, str], family: str
    ) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier
        self.roles, self.family = dict(roles), family

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, C, h, w)`` of ``images`` ``(B, 3, H, W)``."""
        maps = self.backbone(images)
        return self.classifier(maps.get("out", maps))


class FullSize(nn.Module):
    """A segmentation network that answers at the size of its images (bilinear), as it is exported.

    Args:
        net: returns a map of logits of any size.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, C, H, W)`` of ``images`` ``(B, 3, H, W)``."""
        height, width = images.shape[2:]
        return F.interpolate(self.net(images), (height, width), mode="bilinear", align_corners=False)


class SmallFCN(nn.Module):
    """A stem and three stages, the last one dilated, whose map is added to the first stage's and classified there.

    Ours, of no paper: for tests and for CPUs. The logits are at a quarter of the image's size.

    Args:
        widths: channels of the stem (at 1/2) and of the stages (at 1/4, 1/8 and 1/8).
        num_classes: C.
        in_channels: of the images.
    """

    def __init__(self, widths: tuple[int, int, int, int], *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = _conv(in_channels, widths[0], stride=2)
        self.stage1 = nn.Sequential(_conv(widths[0], widths[1], stride=2), _conv(widths[1], widths[1]))
        self.stage2 = nn.Sequential(_conv(widths[1], widths[2], stride=2), _conv(widths[2], widths[2]))
        self.stage3 = nn.Sequential(
            _conv(widths[2], widths[3], dilation=2), _conv(widths[3], widths[3], dilation=4)
        )
        self.deep = _conv(widths[3], widths[2], kernel=1)
        self.shallow = _conv(widths[1], widths[2], kernel=1)
        self.merge = _conv(widths[2], widths[2])
        self.classifier = nn.Conv2d(widths[2], num_classes, 1)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes, H/4, W/4)`` of ``images`` ``(B, in_channels, H, W)``."""
        fine = self.stage1(self.stem(images))
        deep = self.deep(self.stage3(self.stage2(fine)))
        height, width = fine.shape[2:]
        deep = F.interpolate(deep, (height, width), mode="bilinear", align_corners=False)
        return self.classifier(self.merge(self.shallow(fine) + deep))


def _conv(in_width: int, width: int, *, stride: int = 1, dilation: int = 1, kernel: int = 3) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(in_width, width, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _on_resnet(
    name: str,
    head: Callable[[int, int], nn.Module],
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
) -> Segmenter:
    """Returns a network on a small ResNet of torchvision's, dilated so that its last map is at an eighth.

    Args:
        name: of the ResNet.
        head: makes the classifier of a number of channels and of classes.
        num_classes: C.
        in_channels: 3, all that the backbone takes.
        pretrained: downloads the backbone's ImageNet weights; the classifier starts anew.

    Reference: torchvision dilates bottlenecks alone; this is the dilation that papers use for small students, e.g.
    Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation, CVPR 2022.
    """
    if in_channels != 3:
        raise ValueError(
            f"a network on {name} must get images with 3 channels, got in_channels {in_channels}. "
            "Set data.channels to 3, or use fcn_small"
        )
    net: Any = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, progress=False)
    for layer, before, dilation in ((net.layer3, 1, 2), (net.layer4, 2, 4)):
        _dilate(layer, before, dilation)
    backbone = IntermediateLayerGetter(net, return_layers={"layer4": "out"})
    return Segmenter(backbone, head(512, num_classes), {**_RESNET, "head": "classifier.4"}, "resnet")


def _dilate(layer: nn.Module, before: int, dilation: int) -> None:
    """Takes the stride out of a ResNet's layer; its first convolution sees with the dilation that came before."""
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            rate = before if module.stride == (2, 2) else dilation
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (rate, rate)


def torchvision_segmenter(
    name: str, num_classes: int, *, in_channels: int = 3, pretrained: bool = False, **kwargs: Any
) -> Segmenter:
    """Returns a segmentation network of torchvision's, without its auxiliary classifier.

    Args:
        name: one of :data:`TORCHVISION`.
        num_classes: C.
        in_channels: 3, all that torchvision's networks take.
        pretrained: downloads torchvision's weights (COCO, in VOC's classes); for another number of classes the layers
            that make the logits start anew.
        kwargs: for torchvision's builder (``weights_backbone``).

    Raises:
        ValueError: ``in_channels`` is not 3.
    """
    if in_channels != 3:
        raise ValueError(
            f"torchvision/{name} must get images with 3 channels, got in_channels {in_channels}. "
            "Repeat the channel in the data, or give your own package.module:factory"
        )
    builder: Callable[..., Any] = torchvision.models.get_model_builder(name)
    if pretrained:
        weights = torchvision.models.get_model_weights(name)["DEFAULT"]
        net = builder(weights=weights, progress=False, **kwargs)
        _replace_classifiers(net.classifier, len(weights.meta["categories"]), num_classes)
    else:
        kwargs = {"weights_backbone": None, **kwargs}  # downloaded by default
        net = builder(weights=None, num_classes=num_classes, **kwargs)
    roles = _RESNET if "resnet" in name else _MOBILENET_V3
    head = "classifier.high_classifier" if name.startswith("lraspp") else "classifier.4"
    family = "resnet" if "resnet" in name else "mobilenet"
    return Segmenter(net.backbone, net.classifier, {**roles, "head": head}, family)


def _replace_classifiers(classifier: nn.Module, old: int, new: int) -> None:
    """Gives a classifier ``new`` classes, in place; it keeps its weights if there are ``new`` already."""
    for path, module in list(classifier.named_modules()):
        if not isinstance(module, nn.Conv2d) or new == old:
            continue
        if module.out_channels == old and module.kernel_size == (1, 1):
            classifier.set_submodule(path, nn.Conv2d(module.in_channels, new, 1))


SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
    "deeplabv3_resnet18": partial(_on_resnet, "resnet18", DeepLabHead),
    "deeplabv3_resnet34": partial(_on_resnet, "resnet34", DeepLabHead),
    "fcn_base": partial(SmallFCN, (24, 48, 96, 128)),
    "fcn_resnet18": partial(_on_resnet, "resnet18", FCNHead),
    "fcn_resnet34": partial(_on_resnet, "resnet34", FCNHead),
    "fcn_small": partial(SmallFCN, (16, 24, 32, 48)),
    "fcn_tiny": partial(SmallFCN, (8, 8, 16, 24)),
}
"""Name -> what builds it, given ``num_classes`` and ``in_channels``."""

SMALL_ROLES = {
    "stage_0": "stem",
    "stage_1": "stage1",
    "stage_2": "stage2",
    "stage_3": "stage3",
    "head": "classifier",
}
"""Where the roles of :class:`SmallFCN` are."""
