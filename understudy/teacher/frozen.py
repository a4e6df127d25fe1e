"""The frozen teacher: eval mode, no gradient, tapped, never a submodule of what trains."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from understudy.interface import Batch, Network, Outputs
from understudy.taps import Taps
from understudy.widest import widened


class Teacher:
    """Answers a batch with the roles that the terms read.

    The module is put into eval mode and its parameters are frozen, in place: a teacher does nothing else in the
    process. A ``train()`` that reaches it later (of a module that holds it, as Lightning's are told every epoch) is
    undone before it is asked. It is deliberately no :class:`torch.nn.Module`, so that whatever wraps the student never
    sees it.
    """

    def __init__(self, network: Network, roles: Iterable[str], precision: str = "fp32") -> None:
        self.network = network
        self.precision = precision
        self.taps = Taps(network, tuple(roles))
        self.module.eval().requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The network itself."""
        return self.network.module

    @property
    def roles(self) -> tuple[str, ...]:
        """What it shows, wildcards written out."""
        return self.taps.roles

    def __call__(self, batch: Batch) -> Outputs:
        """Returns what the teacher shows for the batch's images, in float32 or wider."""
        return self.show(batch.images, *batch.question)

    def show(self, images: torch.Tensor, *question: torch.Tensor | None) -> Outputs:
        """Returns what the teacher shows for images ``(B, C, H, W)``, in float32 or wider.

        Args:
            images: normalised.
            question: what it is given besides (:attr:`understudy.interface.Batch.question`).
        """
        if self.module.training:
            self.module.eval()
        with (
            torch.no_grad(),  # not inference mode: the losses save these tensors for their backward
            torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            logits = self.module(images, *question)
        return {role: widened(tensor) for role, tensor in self.taps.collect(logits).items()}

    def close(self) -> None:
        """Removes the taps."""
        self.taps.close()
