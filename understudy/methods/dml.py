"""Deep mutual learning: no teacher; networks that train together and teach each other."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.interface import Batch, NonNegative, Outputs, Setup, Temperature
from understudy.losses.dml import dml_loss
from understudy.methods.method import Method
from understudy.models import create_model
from understudy.models.translated import Translated
from understudy.widest import widened


@dataclass(frozen=True, slots=True, kw_only=True)
class DML(Method):
    """The student and its peers learn from the labels and from each other's answers, all in one step.

    The peers live in the term's heads: they train with the student, are saved with the run, and are not deployed. The
    term holds everything the peers learn from, their own cross-entropy included; the student's is the ``ce`` term.
    All networks are updated at once (the paper alternates and recomputes).
    """

    paper: ClassVar[str] = "Zhang et al., Deep Mutual Learning, CVPR 2018"
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    uses_labels: ClassVar[bool] = True
    mixes_labels: ClassVar[bool] = True

    peers: tuple[str, ...] = ("same",)
    """Models of the zoo; ``same`` is another student, initialised anew."""
    temperature: Temperature = 1.0
    peer_ce_weight: NonNegative = 1.0
    """Of the peers' cross-entropy, inside the term: divide by the term's weight if that is not 1."""

    def heads(self, setup: Setup) -> nn.ModuleDict:
        """Returns the peers.

        Raises:
            ValueError: there is no peer, or a model that is not known.
        """
        if not self.peers:
            raise ValueError("dml.peers must name at least one network, got none. Use [same]")
        student = setup.student.module
        if isinstance(student, Translated):  # its peers see the images as they are
            channels = 1 if student.our_channels == "grey" else 3
        else:
            first = next((m for m in student.modules() if isinstance(m, nn.Conv2d)), None)
            channels = first.in_channels if first is not None else 3
        return nn.ModuleDict(
            {
                f"peer_{i}": _another(student)
                if name == "same"
                else create_model(name, setup.num_classes, in_channels=channels)
                for i, name in enumerate(self.peers)
            }
        )

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the student's divergence from its peers, and everything its peers learn from."""
        answers = (peer(batch.images) for peer in heads.values())
        logits = [student["logits"], *map(widened, answers)]
        total = dml_loss(logits[0], logits[1:], self.temperature)
        for i, peer in enumerate(logits[1:], start=1):
            others = logits[:i] + logits[i + 1 :]
            label = batch.over_labels(partial(F.cross_entropy, peer))
            total = total + self.peer_ce_weight * label + dml_loss(peer, others, self.temperature)
        return total


def _another(student: nn.Module) -> nn.Module:
    """Returns a copy with weights of its own.

    Raises:
        ValueError: some layer with parameters of its own cannot be initialised anew.
    """
    peer = copy.deepcopy(student)
    for name, module in peer.named_modules():
        if not list(module.parameters(recurse=False)):
            continue
        if not hasattr(module, "reset_parameters"):
            raise ValueError(
                f"dml's peer 'same' must be initialised anew, got {type(module).__name__} at {name!r}, which has no "
                "reset_parameters(). Name a model in dml.peers"
            )
        module.reset_parameters()  # pyright: ignore[reportCallIssue]
    for module in peer.modules():  # the zoo's and torchvision's own choice for convolutions before ReLUs
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    return peer.requires_grad_(True)  # what the student has frozen is random here
