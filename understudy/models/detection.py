"""Networks that find objects: Faster R-CNN with a feature pyramid, of torchvision's parts and parameter names.

The flow through the parts is ours. Images come normalised and of one size, as for every other network; which anchors
and proposals are learned from is drawn from a key an image, so it depends neither on the rest of the batch nor on
torch's random state; and every image has the same number of samples, so all that is shown has static shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, box_iou

from understudy.data.counter import Stream, uniform
from understudy.models.initialisation import init_convolutions
from understudy.widest import widened

TORCHVISION_DETECTORS = frozenset(
    name for name in torchvision.models.list_models(module=detection) if name.startswith("fasterrcnn_")
)
"""Names of torchvision's Faster R-CNNs, without ``torchvision/``."""

BOX = slice(1, 5)
"""Where a row of a target has its box, after the class number (1 to C; -1: no row)."""
LEVELS = ((8,), (16,), (32,), (64,), (128,))
"""Sides of the anchors of our small networks, in pixels, a tuple a level of the pyramid."""


class Detector(nn.Module):
    """Faster R-CNN: a pyramid of maps, a network that proposes boxes, and a head that classifies and mends them.

    Background is class 0 of the head's logits, the classes of the data are 1 to C.

    What :meth:`forward` shows of boxes that are asked about, by role (``S`` boxes an image, ``A`` anchors of it that
    were drawn, ``K`` classes with the background):

    - ``logits`` ``(B, S, K)``, ``feature`` ``(B, S, D)``: of the box head, and the input of its last layer
    - ``stage_k`` ``(B, F, H_k, W_k)``: level k of the pyramid, from the finest
    - while it learns also ``boxes`` ``(B, S, 4)`` and ``labels`` ``(B, S)``: the proposals it drew and the class that
      each was assigned; ``box_deltas`` and ``box_goals`` ``(B, S, 4)``: how the head would move each box as one of
      that class, and how it should; ``anchor_logits`` and ``anchor_labels`` ``(B, A)`` (1 object, 0 background, -1
      not drawn), ``anchor_deltas`` and ``anchor_goals`` ``(B, A, 4)``: likewise of the anchors.

    Args:
        backbone: returns the levels of the pyramid by name.
        rpn: torchvision's region proposal network.
        roi_heads: torchvision's box heads.
        family: of the backbone, by which DHKD chooses its head.
        brought: options that make the same network without pretrained weights; they stand in its own files.
    """

    def __init__(
        self,
        backbone: nn.Module,
        rpn: nn.Module,
        roi_heads: nn.Module,
        family: str,
        brought: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn: Any = rpn
        self.roi_heads: Any = roi_heads
        self.family = family
        self.brought: dict[str, Any] = dict(brought or {})

    @property
    def num_samples(self) -> int:
        """S: proposals of an image that are learned from."""
        return self.roi_heads.fg_bg_sampler.batch_size_per_image

    @property
    def num_detections(self) -> int:
        """D: boxes of an image that are returned at most."""
        return self.roi_heads.detections_per_img

    def forward(
        self,
        images: Tensor,
        boxes: Tensor | None = None,
        target: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> Any:
        """Returns the objects found, or what the network shows of boxes.

        Args:
            images: normalised.
            boxes: show these boxes (left, top, right, bottom in pixels).
            target: propose boxes, draw some, and show them beside what they should be: rows of a class number (-1: no
                row) and its box; more columns are not read.
            keys: of the draw, int64.

        Returns:
            with images alone ``(B, D, 6)``: box, score (0 to 1) and class number from 1 of every object found, the
            best first; rows of zeros where there are fewer. Else tensors by role.

        Shape:
            images: ``(B, 3, H, W)``; boxes: ``(B, S, 4)``; target: ``(B, M, 5 or more)``; keys: ``(B,)``.
        """
        maps: dict[str, Tensor] = self.backbone(images)
        size = (images.shape[2], images.shape[3])
        if boxes is not None:
            return self._of_boxes(maps, boxes, size)[0]
        if target is None:
            return self._found(maps, size)
        assert keys is not None
        proposals, shown = self._propose(maps, size, target, keys)
        boxes, labels, goals = self._draw(proposals, target, keys)
        shown |= {"boxes": boxes, "labels": labels, "box_goals": goals}
        answered, deltas = self._of_boxes(maps, boxes, size)
        own = labels[..., None, None].expand(-1, -1, 1, 4)
        return answered | shown | {"box_deltas": deltas.gather(2, own).squeeze(2)}

    def anchors(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Returns the anchors of every level, each ``(H·W·a, 4)`` in (h, w, a) order.

        Args:
            maps: of the levels, of which only size, type and device are read.
            size: height and width of the images.
        """
        return level_anchors(self.rpn.anchor_generator, maps, size)

    def _of_boxes(
        self, maps: Mapping[str, Tensor], boxes: Tensor, size: tuple[int, int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Returns what is shown of boxes, and how each would be moved as one of each class, ``(B, S, K, 4)``."""
        pooled = self.roi_heads.box_roi_pool(maps, list(boxes.unbind()), [size] * len(boxes))
        feature = self.roi_heads.box_head(pooled).unflatten(0, boxes.shape[:2])
        logits, deltas = self.roi_heads.box_predictor(feature.flatten(0, 1))
        levels = {f"stage_{k}": level for k, level in enumerate(maps.values(), start=1)}
        shown = levels | {"feature": feature, "logits": logits.unflatten(0, boxes.shape[:2])}
        return shown, widened(deltas).view(*boxes.shape[:2], -1, 4)

    def _proposals(self, maps: Mapping[str, Tensor], size: tuple[int, int]) -> tuple[list[Tensor], _Anchors]:
        """Returns the boxes proposed for each image, and the anchors they come from."""
        levels = list(maps.values())
        logits, deltas = self.rpn.head(levels)
        anchors = self.anchors(levels, size)
        flat_logits, flat_deltas = concat_box_prediction_layers(
            [widened(level) for level in logits], [widened(level) for level in deltas]
        )
        count = len(levels[0])
        every = torch.cat(anchors)
        moved = self.rpn.box_coder.decode(flat_deltas.detach(), [every] * count).view(count, -1, 4)
        proposals, _ = self.rpn.filter_proposals(
            moved, flat_logits, [size] * count, [len(level) for level in anchors]
        )
        return proposals, _Anchors(every, flat_logits.view(count, -1), flat_deltas.view(count, -1, 4))

    def _propose(
        self, maps: Mapping[str, Tensor], size: tuple[int, int], target: Tensor, keys: Tensor
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Returns the proposals of each image, and what is shown of the anchors that are drawn."""
        proposals, anchors = self._proposals(maps, size)
        sampler = self.rpn.fg_bg_sampler
        drawn = min(sampler.batch_size_per_image, len(anchors.boxes))
        places, labels, goals = [], [], []
        for rows, key in zip(target, keys, strict=True):
            objects = rows[rows[:, 0] > 0, BOX].to(anchors.boxes.dtype)
            matched = _matched(self.rpn.proposal_matcher, objects, anchors.boxes)
            label = torch.where(matched >= 0, 1, torch.where(matched == -1, 0, -1))
            place, filled = _drawn(label, key, Stream.ANCHORS, drawn, _most_objects(sampler))
            places.append(place)
            labels.append(torch.where(filled, label[place], -1))
            wanted = _wanted(objects, matched[place], anchors.boxes[place])
            goals.append(self.rpn.box_coder.encode_single(wanted, anchors.boxes[place]))
        place = torch.stack(places)
        return proposals, {
            "anchor_logits": anchors.logits.gather(1, place),
            "anchor_deltas": anchors.deltas.gather(1, place[..., None].expand(-1, -1, 4)),
            "anchor_labels": torch.stack(labels),
            "anchor_goals": torch.stack(goals),
        }

    @torch.no_grad()
    def _draw(self, proposals: list[Tensor], target: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the drawn boxes ``(B, S, 4)``, their classes ``(B, S)``, and how each is to be moved ``(B, S, 4)``.

        The objects themselves are among the proposals. Where there are fewer than S, those drawn come again in turn; an
        image without any proposes itself as background.
        """
        sampler = self.roi_heads.fg_bg_sampler
        slots = torch.arange(self.num_samples, device=target.device)
        boxes, labels, goals = [], [], []
        for found, rows, key in zip(proposals, target, keys, strict=True):
            real = rows[rows[:, 0] > 0]
            objects = real[:, BOX].to(found.dtype)
            candidates = torch.cat([found, objects])
            if len(candidates) == 0:
                candidates = found.new_tensor([[0.0, 0.0, 1.0, 1.0]])
            matched = _matched(self.roi_heads.proposal_matcher, objects, candidates)
            classes = torch.cat(
                [real[:, 0].long(), real.new_zeros(1, dtype=torch.int64)]
            )  # the last: background
            label = torch.where(matched >= 0, classes[matched.clamp_min(-1)], 0)
            wanted = min(self.num_samples, len(candidates))
            place, filled = _drawn(label, key, Stream.PROPOSALS, wanted, _most_objects(sampler))
            place = place[slots % filled.sum()]
            boxes.append(candidates[place])
            labels.append(label[place])
            aims = _wanted(objects, matched[place], candidates[place])
            goals.append(self.roi_heads.box_coder.encode_single(aims, candidates[place]))
        return torch.stack(boxes), torch.stack(labels), torch.stack(goals)

    def _found(self, maps: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Returns the objects found ``(B, D, 6)``."""
        proposals, _ = self._proposals(maps, size)
        sizes = [size] * len(proposals)
        feature = self.roi_heads.box_head(self.roi_heads.box_roi_pool(maps, proposals, sizes))
        logits, deltas = self.roi_heads.box_predictor(feature)
        parts = self.roi_heads.postprocess_detections(widened(logits), widened(deltas), proposals, sizes)
        found = []
        for boxes, scores, labels in zip(*parts, strict=True):
            rows = torch.cat([boxes, scores[:, None], labels[:, None].to(boxes.dtype)], dim=1)
            found.append(nn.functional.pad(rows, (0, 0, 0, self.num_detections - len(rows))))
        return torch.stack(found)


def level_anchors(generator: Any, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    """Returns the anchors of every level, each ``(H·W·a, 4)`` in (h, w, a) order.

    Args:
        generator: torchvision's generator of anchors.
        maps: of the levels, of which only size, type and device are read.
        size: height and width of the images.
    """
    one = ImageList(maps[0].new_empty(1, 3, *size), [size])
    (every,) = generator(one, [widened(level[:1]) for level in maps])
    areas = [level.shape[2] * level.shape[3] for level in maps]
    counts = [area * count for area, count in zip(areas, generator.num_anchors_per_location(), strict=True)]
    return list(every.split(counts))


class _Anchors:
    """All anchors ``(N, 4)``, and what the proposing network says of them in each image."""

    def __init__(self, boxes: Tensor, logits: Tensor, deltas: Tensor) -> None:
        self.boxes, self.logits, self.deltas = boxes, logits, deltas


def _matched(matcher: Any, objects: Tensor, boxes: Tensor) -> Tensor:
    """Returns the object that each box is to find, -1 for background and -2 for neither, ``(N,)``."""
    if len(objects) == 0:
        return torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
    return matcher(box_iou(objects, boxes))


def _wanted(objects: Tensor, matched: Tensor, boxes: Tensor) -> Tensor:
    """Returns the object's box for each box that has one, itself for others."""
    every = torch.cat([objects, boxes.new_tensor([[0.0, 0.0, 1.0, 1.0]])])
    return torch.where((matched >= 0)[:, None], every[matched.clamp_min(-1)], boxes)


def _most_objects(sampler: Any) -> int:
    """Returns how many of the boxes that torchvision's sampler draws may be objects."""
    return max(1, int(sampler.batch_size_per_image * sampler.positive_fraction))


def _drawn(label: Tensor, key: Tensor, stream: Stream, count: int, most: int) -> tuple[Tensor, Tensor]:
    """Returns which of some boxes are drawn, objects first, and which of these places are filled, ``(count,)`` both.

    As torchvision draws: some objects at most, and background for the rest, as far as there is any.

    Args:
        label: 0 background, above an object, below neither, ``(N,)``.
        key: of the draw, 0-d.
        stream: what it is for.
        count: how many, at most N.
        most: objects among them.
    """
    chance = uniform(0, stream, key, torch.arange(len(label), device=label.device))
    objects = label > 0
    place = torch.where(objects, chance, 2.0).argsort()
    rank = torch.empty_like(place).scatter_(0, place, torch.arange(len(place), device=place.device))
    objects = objects & (rank < most)
    # objects before background before what is neither
    order = torch.where(objects, chance, torch.where(label == 0, chance + 1, 3.0)).argsort()[:count]
    return order, objects[order] | (label[order] == 0)


def _detector(
    backbone: BackboneWithFPN,
    num_classes: int,
    family: str,
    *,
    sizes: Sequence[Sequence[int]],
    proposals: int,
    width: int,
    samples: int,
    detections: int,
    canonical: int,
    anchors_drawn: int = 256,
) -> Detector:
    """Returns a detector on a pyramid; numbers as :func:`_on_backbone` takes them."""
    generator = AnchorGenerator(tuple(map(tuple, sizes)), ((0.5, 1.0, 2.0),) * len(sizes))
    pool = MultiScaleRoIAlign(
        ["0", "1", "2", "3"], output_size=7, sampling_ratio=2, canonical_scale=canonical
    )
    net = FasterRCNN(
        backbone,
        rpn_anchor_generator=generator,
        rpn_pre_nms_top_n_train=proposals,
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_train=proposals,
        rpn_post_nms_top_n_test=proposals,
        rpn_batch_size_per_image=anchors_drawn,
        box_roi_pool=pool,
        box_head=TwoMLPHead(backbone.out_channels * 49, width),
        box_predictor=FastRCNNPredictor(width, num_classes + 1),
        box_batch_size_per_image=samples,
        box_detections_per_img=detections,
    )
    return Detector(net.backbone, net.rpn, net.roi_heads, family)


class SmallBody(nn.Module):
    """Four stages at 1/4 to 1/32 of the image's size; ours, of no paper, for tests and for CPUs.

    Args:
        widths: channels of the stem (at 1/2) and of the stages.
        in_channels: of the images.
    """

    def __init__(self, widths: tuple[int, int, int, int, int], in_channels: int) -> None:
        super().__init__()
        self.stem = _conv(in_channels, widths[0], 2)
        self.stage1 = nn.Sequential(_conv(widths[0], widths[1], 2), _conv(widths[1], widths[1]))
        self.stage2 = nn.Sequential(_conv(widths[1], widths[2], 2), _conv(widths[2], widths[2]))
        self.stage3 = nn.Sequential(_conv(widths[2], widths[3], 2), _conv(widths[3], widths[3]))
        self.stage4 = nn.Sequential(_conv(widths[3], widths[4], 2), _conv(widths[4], widths[4]))
        init_convolutions(self)


def _conv(in_width: int, width: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _small(
    widths: tuple[int, int, int, int, int],
    pyramid: int,
    head: int,
    *,
    num_classes: int,
    in_channels: int = 3,
    samples: int = 64,
    proposals: int = 300,
    detections: int = 100,
    anchors: Sequence[Sequence[int]] = LEVELS,
) -> Detector:
    """Returns a small network whose norms are trained.

    Args:
        widths: as :class:`SmallBody` takes them.
        pyramid: channels of the pyramid.
        head: width of the box head.
        num_classes: C, without background.
        in_channels: of the images.
        samples: proposals of an image that are learned from.
        proposals: that are kept of an image, and of each level before those that overlap are left out.
        detections: that are returned of an image at most.
        anchors: sides of the anchors of each of five levels, in pixels.
    """
    names = {f"stage{k}": str(k - 1) for k in range(1, 5)}
    backbone = BackboneWithFPN(SmallBody(widths, in_channels), names, list(widths[1:]), pyramid)
    return _detector(
        backbone,
        num_classes,
        "frcnn",
        sizes=_levels(anchors),
        proposals=proposals,
        width=head,
        samples=samples,
        detections=detections,
        canonical=56,
    )


def _on_backbone(
    name: str,
    layers: Mapping[str, int],
    inner: str | None,
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    frozen_norm: bool = False,
    frozen: Sequence[str] = (),
    pyramid: int = 256,
    head: int = 1024,
    samples: int = 512,
    proposals: int = 1000,
    detections: int = 100,
    anchors: Sequence[Sequence[int]] = ((32,), (64,), (128,), (256,), (512,)),
) -> Detector:
    """Returns a network on a backbone of torchvision's.

    Args:
        name: of the backbone.
        layers: module whose map is a level of the pyramid -> its channels, from the finest.
        inner: the submodule that holds these, if any.
        num_classes: C, without background.
        in_channels: 3, all that the backbone takes.
        pretrained: downloads the backbone's ImageNet weights.
        frozen_norm: batch norms keep statistics and weights (as is usual on top of pretrained ones).
        frozen: names of modules of the backbone that are not trained (``[conv1, bn1, layer1]``).
        pyramid: channels of the pyramid.
        head: width of the box head.
        samples: proposals of an image that are learned from.
        proposals: that are kept of an image, and of each level before those that overlap are left out.
        detections: that are returned of an image at most.
        anchors: sides of the anchors of each of five levels, in pixels.

    Raises:
        ValueError: the images have not three channels, or a module to freeze does not exist.
    """
    if in_channels != 3:
        raise ValueError(
            f"a detector on {name} must get images with 3 channels, got in_channels {in_channels}. "
            "Set data.channels to 3, or use frcnn_small"
        )
    norm = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
    weights = "IMAGENET1K_V1" if pretrained else None
    net: Any = torchvision.models.get_model(name, weights=weights, progress=False, norm_layer=norm)
    body = net if inner is None else net.get_submodule(inner)
    modules = dict(body.named_children())
    for child in frozen:
        if child not in modules:
            raise ValueError(
                f"options.frozen must name modules of {name}, got {child!r}. There are {', '.join(modules)}"
            )
        modules[child].requires_grad_(False)
    names = {layer: str(level) for level, layer in enumerate(layers)}
    backbone = BackboneWithFPN(body, names, list(layers.values()), pyramid)
    return _detector(
        backbone,
        num_classes,
        "mobilenet" if name.startswith("mobilenet") else "resnet",
        sizes=_levels(anchors),
        proposals=proposals,
        width=head,
        samples=samples,
        detections=detections,
        canonical=224,
    )


def _levels(anchors: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """Returns the anchors' sides, checked."""
    right = len(anchors) == 5 and all(not isinstance(level, int) and len(level) for level in anchors)
    if not right or len({len(level) for level in anchors}) != 1:
        raise ValueError(
            f"options.anchors must be five lists of equally many sides, one a level of the pyramid, got {anchors}. "
            "[[8], [16], [32], [64], [128]] is one"
        )
    return anchors


def torchvision_detector(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    frozen_norm: float | None = None,
    **kwargs: Any,
) -> Detector:
    """Returns a Faster R-CNN of torchvision's.

    Args:
        name: one of :data:`TORCHVISION_DETECTORS`.
        num_classes: C, without background.
        in_channels: 3, all that torchvision's networks take.
        pretrained: downloads torchvision's weights (COCO); for another number of classes the last layers start anew.
        frozen_norm: the epsilon of batch norms that keep statistics and weights. Pretrained networks bring such along,
            which is why a run's weights say it (:attr:`Detector.brought`).
        kwargs: for torchvision's builder (``weights_backbone``, ``box_batch_size_per_image`` ...).

    Raises:
        ValueError: ``in_channels`` is not 3.
    """
    if in_channels != 3:
        raise ValueError(
            f"torchvision/{name} must get images with 3 channels, got in_channels {in_channels}. "
            "Repeat the channel in the data, or use frcnn_small"
        )
    builder: Callable[..., Any] = torchvision.models.get_model_builder(name)
    if pretrained:
        net = builder(weights="DEFAULT", progress=False, **kwargs)
        last = net.roi_heads.box_predictor
        if last.cls_score.out_features != num_classes + 1:
            net.roi_heads.box_predictor = FastRCNNPredictor(last.cls_score.in_features, num_classes + 1)
    else:
        kwargs = {"weights_backbone": None, **kwargs}  # downloaded by default
        net = builder(weights=None, num_classes=num_classes + 1, **kwargs)
        if frozen_norm is not None:
            _freeze_norms(net.backbone, frozen_norm)
    family = "mobilenet" if "mobilenet" in name else "resnet"
    norms = [m.eps for m in net.backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    brought = {"frozen_norm": norms[0]} if norms else {}
    return Detector(net.backbone, net.rpn, net.roi_heads, family, brought)


def _freeze_norms(module: nn.Module, eps: float) -> None:
    """Replaces batch norms by such as keep statistics and weights."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps))
        else:
            _freeze_norms(child, eps)


_BASIC = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
_BOTTLENECK = {layer: 4 * width for layer, width in _BASIC.items()}

DETECTORS: dict[str, Callable[..., nn.Module]] = {
    "fasterrcnn_mobilenet_v2": partial(
        _on_backbone, "mobilenet_v2", {"3": 24, "6": 32, "13": 96, "17": 320}, "features"
    ),
    "fasterrcnn_mobilenet_v3_large": partial(
        _on_backbone, "mobilenet_v3_large", {"3": 24, "6": 40, "12": 112, "15": 160}, "features"
    ),
    "fasterrcnn_resnet101": partial(_on_backbone, "resnet101", _BOTTLENECK, None),
    "fasterrcnn_resnet18": partial(_on_backbone, "resnet18", _BASIC, None),
    "fasterrcnn_resnet34": partial(_on_backbone, "resnet34", _BASIC, None),
    "fasterrcnn_resnet50": partial(_on_backbone, "resnet50", _BOTTLENECK, None),
    "frcnn_base": partial(_small, (24, 48, 96, 128, 192), 96, 256),
    "frcnn_small": partial(_small, (16, 24, 48, 64, 96), 64, 256),
    "frcnn_tiny": partial(_small, (8, 8, 16, 24, 32), 24, 64),
}
"""Name -> what builds it, given ``num_classes`` (without background) and ``in_channels``."""
