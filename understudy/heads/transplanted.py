"""The model that is shipped where the teacher's classifier replaces the student's."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from understudy.heads.tokens import as_map
from understudy.heads.transplant import find_transplant
from understudy.interface import Network
from understudy.taps import without_hooks
from understudy.taps.find import DescribedNetwork


class Transplanted(nn.Module):
    """A student's backbone, a connector and a teacher's classifier, as one ordinary module.

    The backbone runs as its author wrote it; a hook of this module's own, registered here once, takes its last map
    on the way. Copies and pickles carry that hook along. What the backbone does after that map is not used, so its
    own classifier should be an identity. One forward pass at a time: the hook is not for several threads.

    Args:
        backbone: the student; gets the hook.
        path: of the module whose output is the student's last map or tokens.
        connector: from there to the teacher's channels.
        classifier: the teacher's last linear layer.
        channels_last: whether that module shows ``(B, H, W, C)``.

    Shape:
        images ``(B, C, H, W)`` -> logits ``(B, classes)``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        path: str,
        connector: nn.Module,
        classifier: nn.Module,
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.connector = connector
        self.classifier = classifier
        self.channels_last = channels_last
        self._keep = _Keep()
        backbone.get_submodule(path).register_forward_hook(self._keep)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        self.backbone(images)
        shown = self._keep.take()
        if self.channels_last:
            shown = shown.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        return self.classifier(self.connector(as_map(shown)).mean(dim=(2, 3)))


def transplanted_model(student: Network, heads: nn.ModuleDict) -> Transplanted:
    """Returns the model to ship, of copies: the student without its head, the connector, the teacher's classifier.

    Args:
        student: not changed.
        heads: of a method that answers with the teacher's classifier.
    """
    parts = find_transplant(heads)
    backbone = without_hooks(student.module)
    if student.head is not None:
        backbone.set_submodule(student.head, nn.Identity())  # no loss has reached it
    return Transplanted(
        backbone,
        student.paths["stage_last"],
        copy.deepcopy(parts.connect),
        copy.deepcopy(parts.classifier).requires_grad_(True),
        channels_last=isinstance(student, DescribedNetwork) and "stage_last" in student.channels_last,
    )


class _Keep:
    """A forward hook that keeps the last output until it is taken; copies start empty."""

    def __init__(self) -> None:
        self.shown: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        del module, args
        self.shown = output

    def take(self) -> Tensor:
        shown, self.shown = self.shown, None
        assert shown is not None  # the backbone has run
        return shown

    def __reduce__(self) -> tuple[type[_Keep], tuple[()]]:
        return _Keep, ()
