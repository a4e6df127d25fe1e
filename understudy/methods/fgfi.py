"""FGFI: imitate the teacher's maps where anchors are near an object."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from understudy.heads.adapter import adapter
from understudy.interface import Batch, Outputs, Setup
from understudy.losses.fgfi import fgfi_loss, fgfi_mask
from understudy.methods.method import Method
from understudy.methods.stages import Stages, paired_maps, resolve_stages
from understudy.models.detection import BOX, Detector, level_anchors


@dataclass(frozen=True, slots=True, kw_only=True)
class FGFI(Method):
    """Squared difference of the adapted student levels and the teacher's, where an anchor is near an object.

    Near is an IoU above ``threshold`` times the object's largest with any anchor of the level. All levels are one loss,
    divided by twice the number of their locations that count, over the whole batch. With several processes that is the
    global batch; a batch in parts (``train.accumulate``) is divided part by part.

    The paper leaves it off for the first 400 steps (``from_epoch``) and clips the gradient to a norm of 10.
    """

    paper: ClassVar[str] = (
        "Wang et al., Distilling Object Detectors with Fine-grained Feature Imitation, CVPR 2019"
    )
    student_taps: ClassVar[tuple[str, ...]] = ("stage_*",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("stage_*",)
    uses_labels: ClassVar[bool] = True
    needs_boxes: ClassVar[bool] = True
    suits_boxes: ClassVar[bool] = True

    threshold: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Share of an object's largest IoU on a level that an anchor there must exceed."""
    stages: Stages | None = None
    """Pairs (student, teacher) of levels; all paired levels by default."""

    @property
    def relates_samples(self) -> bool:
        """That is divided by a count over all images."""
        return True

    def resolved(self, setup: Setup) -> FGFI:
        """Returns the same with the levels decided."""
        return replace(self, stages=resolve_stages(self.stages, setup, "fgfi"))

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns an adapter a level, and what makes the student's anchors.

        Raises:
            ValueError: the student is no detector, or the levels of a pair differ in size.
        """
        detector, guide = setup.student, setup.guide
        if not isinstance(detector.module, Detector):
            raise ValueError("fgfi must have a student that finds objects, got none. Choose a detector")
        adapters = nn.ModuleDict()
        for s, t in resolve_stages(self.stages, setup, "fgfi"):
            ours, theirs = detector.shapes[f"stage_{s}"], guide.shapes[f"stage_{t}"]
            if ours[1:] != theirs[1:]:
                raise ValueError(
                    f"fgfi must compare levels of one size, got {ours[1:]} at the student's stage_{s} and {theirs[1:]} "
                    f"at the teacher's stage_{t}. Give other stages"
                )
            adapters[f"stage_{s}_{t}"] = adapter(ours[0], theirs[0])
        return nn.ModuleDict({"adapters": adapters, "anchors": LevelAnchors(detector.module)})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the masked squared difference of all levels."""
        adapters = heads["adapters"]
        assert isinstance(adapters, nn.ModuleDict)
        ours, theirs = paired_maps(student, teacher, self.stages)
        levels = [student[f"stage_{k}"] for k in range(1, 1 + sum(r.startswith("stage_") for r in student))]
        anchors = heads["anchors"](levels, batch.images.shape[2:])
        assert self.stages is not None  # or there would be no maps
        near = [self._near(anchors[s - 1], batch.target, levels[s - 1]) for s, _ in self.stages]
        adapted = [adapt(level) for adapt, level in zip(adapters.values(), ours, strict=True)]
        return fgfi_loss(_joined(adapted), _joined(theirs), _joined(near))

    def _near(self, anchors: Tensor, target: Tensor, level: Tensor) -> Tensor:
        """Returns where anchors of a level are near an object of each image, ``(B, 1, H, W)``."""
        size = (level.shape[2], level.shape[3])
        boxes = [rows[rows[:, 0] > 0, BOX].to(anchors.dtype) for rows in target]
        return torch.stack([fgfi_mask(anchors, image, size, self.threshold) for image in boxes])


class LevelAnchors(nn.Module):
    """Makes the anchors of a detector; it has no parameters.

    Args:
        detector: whose anchors they are.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.generator: Any = copy.deepcopy(detector.rpn.anchor_generator)

    def forward(self, levels: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Returns the anchors of every level, each ``(H·W·a, 4)`` in (h, w, a) order.

        Args:
            levels: maps of all levels, of which only size, type and device are read.
            size: height and width of the images.
        """
        return level_anchors(self.generator, levels, (size[0], size[1]))


def _joined(levels: list[Tensor]) -> Tensor:
    """Returns maps as one, ``(B, C, locations of all, 1)``; their channels must be equal."""
    return torch.cat([level.flatten(2) for level in levels], dim=2)[..., None]
