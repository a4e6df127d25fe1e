"""An earlier state of the student, frozen, for losses against its own past."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.interface import Network
from understudy.taps import without_hooks


class FeatureSnapshot(nn.Module):
    """A frozen copy of the student without its head: images in, features out.

    It stays in eval mode, as a checkpoint that is used; its weights are in the state dict, so a resumed run goes on
    exactly.

    Args:
        student: of which the first snapshot is taken.

    Raises:
        ValueError: the student has no linear head, so that it has no feature either.
    """

    def __init__(self, student: Network) -> None:
        super().__init__()
        classifier = student.classifier
        self.head = next(path for path, m in student.module.named_modules() if m is classifier)
        self.network = without_hooks(student.module).requires_grad_(False)
        self.network.set_submodule(self.head, nn.Identity())
        self.eval()

    def update(self, student: Network) -> None:
        """Takes the student's present weights and buffers, in place."""
        state = student.module.state_dict()
        self.network.load_state_dict({k: v for k, v in state.items() if not k.startswith(f"{self.head}.")})

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Returns the features ``(B, D)`` of ``images`` ``(B, C, H, W)``."""
        return self.network(images)

    def train(self, mode: bool = True) -> FeatureSnapshot:
        """Stays in eval mode, whatever the distiller's mode."""
        del mode
        return super().train(False)
