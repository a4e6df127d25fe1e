"""What `released` and `eager` share: the networks, the task read out of the config, and the library's views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from understudy.config import Config
from understudy.data import ImageSet, PadCropFlip
from understudy.data.counter import permutation
from understudy.methods.dhkd import DHKD
from understudy.methods.term import build_terms
from understudy.models import create_model

from .setting import Setting
from .synthetic import CLASSES


class TwoHeads(nn.Module):
    """A network whose classifier ``fc`` got a neighbour: the student of DHKD, written by hand."""

    def __init__(self, backbone: nn.Module, aux: str) -> None:
        super().__init__()
        self.main = cast("nn.Linear", backbone.fc)
        self.aux = nn.Linear(self.main.in_features, self.main.out_features)
        self.aux.load_state_dict(load_file(aux))
        self.backbone = backbone
        self.backbone.fc = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of both heads."""
        feature = self.backbone(images).float()
        with torch.autocast(images.device.type, enabled=False):
            return self.main(feature), self.aux(feature)


@dataclass(frozen=True, slots=True)
class Task:
    """DHKD as the config says it, for arms that know nothing else."""

    config: Config
    student: TwoHeads
    teacher: nn.Module
    weight: float
    """Of the teacher's loss."""
    temperature: float
    align: bool
    """Whether gradients are merged as the released code does, or summed."""

    @classmethod
    def read(cls, setting: Setting) -> Task:
        """Returns the task of a setting.

        Raises:
            ValueError: the config is of another method.
        """
        config = setting.read()
        terms = build_terms(config.losses)
        if [t.name for t in terms] != ["ce", "dhkd"] or config.teacher is None or setting.aux is None:
            raise ValueError(
                f"arm {setting.arm} must have the terms ce and dhkd, got others. Use the library"
            )
        if config.gradients.align not in ("none", "released"):
            raise ValueError(
                f"arm {setting.arm} must align none or released, got {config.gradients.align}. Use the library"
            )
        method = terms[1].method
        assert isinstance(method, DHKD)
        student = create_model(config.student.model, CLASSES, weights=config.student.weights)
        teacher = create_model(config.teacher.model, CLASSES, weights=config.teacher.weights)
        return cls(
            config=config,
            student=TwoHeads(student, setting.aux).to(config.train.device),
            teacher=teacher.to(config.train.device).eval().requires_grad_(False),
            weight=terms[1].weight.at(0),
            temperature=method.temperature,
            align=config.gradients.align == "released",
        )


def library_plan(config: Config, data: ImageSet, epoch: int) -> tuple[Tensor, Tensor]:
    """Returns the order ``(N,)`` in which the library visits the images in an epoch, and each image's view ``(N,)``."""
    order = permutation(config.seed, epoch, len(data))
    return order, PadCropFlip().views(config.seed, epoch, data.index)
