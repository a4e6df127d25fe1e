"""Sums over an epoch that stay on the device: nothing is read on the host until somebody asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.engine.diagnostics import Diagnostics
from understudy.engine.distributed import Ranks
from understudy.tasks import TASKS, Task
from understudy.widest import widen, widest

COLLAPSED = 0.99
"""Share of all predictions that must be for one class to call it a collapse."""
LEARNED = 0.6
"""An accuracy from which on such predictions are right: the images are of one class, too."""
FEWEST = 100
"""Images (or pixels) of which a collapse may be said."""


class Meters:
    """Running sums of the losses, the accuracy and the alignment of one epoch, and the predictions of each class.

    Of several processes each adds its own; :meth:`gather` adds them up. Then, as before the first sum, one process
    holds everything and the others nothing, so that a checkpoint of the sums is good for any number of processes.

    Args:
        labels: the terms that are active in this epoch, in order.
        device: where the sums live.
        num_classes: C.
        diagnostics: what is looked at now and then besides; its sums are kept with these.
        task: says what a right answer is.
    """

    def __init__(
        self,
        labels: Sequence[str],
        device: torch.device,
        num_classes: int,
        diagnostics: Diagnostics | None = None,
        task: Task = TASKS["classification"],
    ) -> None:
        self.ranks = Ranks()
        self.labels = ("loss", *labels)
        self.sums = torch.zeros(len(self.labels), dtype=widest(device), device=device)
        self.images = torch.zeros(1, dtype=torch.int64, device=device)
        self.alignment = torch.zeros(
            3, dtype=widest(device), device=device
        )  # sum of lambda, conflicts, merges
        self.tally = task.tally(num_classes, device)
        self.diagnostics = diagnostics or Diagnostics(0, 0, device)
        self.diagnosed = self.diagnostics.sums

    @torch.no_grad()
    def add(
        self,
        loss: Tensor,
        terms: dict[str, Tensor],
        logits: Tensor,
        target: Tensor,
        weight: float | None = None,
    ) -> None:
        """Adds one batch (or one part of it).

        Args:
            loss: of the batch.
            terms: of the batch, in the order of the labels.
            logits: of the images that are counted, ``(B, C)`` or maps.
            target: likewise, ``(B,)`` or masks; of mixed images the label with the larger share.
            weight: images that the losses stand for, if not B.
        """
        values = widen(torch.stack([loss.detach(), *(t.detach() for t in terms.values())]))
        self.sums += values * (len(target) if weight is None else weight)
        self.images += len(target)
        self.tally.add(logits, target)

    @torch.no_grad()
    def add_alignment(self, info: dict[str, Tensor]) -> None:
        """Adds what one merge of gradients found."""
        if info:
            strength, dot = widen(info["lambda"]), info["dot"]
            conflict = widen(dot < 0)
            self.alignment += torch.stack(
                [strength.mean(), conflict.mean(), torch.ones_like(self.alignment[2])]
            )

    @torch.no_grad()
    def gather(self) -> None:
        """Moves the sums of all processes to the first one; collective. The alignment is the same on all already."""
        if not self.ranks.several:
            return
        parts = (self.sums, self.images, *self.tally.tensors.values(), self.diagnosed)
        message = torch.cat([widen(part).flatten() for part in parts])  # counts are exact up to 2^53
        self.ranks.total(message)
        if not self.ranks.is_first:
            message.zero_()
        for part, total in zip(parts, message.split([part.numel() for part in parts]), strict=True):
            part.copy_(total.view(part.shape))

    def collapsed(self) -> int | None:
        """Returns the class that nearly all predictions were for, though most images are of another; reads the device.

        With several processes the first one's is right, after :meth:`gather`.
        """
        right, judged, predicted = self.tally.judged()
        correct, seen = int(right), int(judged)
        most, number = predicted.max(dim=0)
        one = seen >= FEWEST and int(most) >= COLLAPSED * seen and correct < LEARNED * seen
        return int(number) if one else None

    def summary(self) -> dict[str, float]:
        """Returns the means of the epoch under their names in ``metrics.jsonl``; reads the device.

        With several processes the first one's are right, after :meth:`gather`.
        """
        values = (self.sums / self.images.clamp_min(1)).tolist()
        summary = {f"train/{label}": value for label, value in zip(self.labels, values, strict=True)}
        summary |= {f"train/{name}": score for name, score in self.tally.scores().items()}
        strength, conflicts, merges = self.alignment.tolist()
        if merges:
            summary |= {"train/lambda": strength / merges, "train/conflict": 100.0 * conflicts / merges}
        return summary | self.diagnostics.summary()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the sums, for a checkpoint within an epoch."""
        own = {name: getattr(self, name) for name in ("sums", "images", "alignment", "diagnosed")}
        return own | self.tally.tensors

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes saved sums; of several processes the first does, for all."""
        if "images" not in state:  # older checkpoints: every image was judged
            state = {**state, "images": state["counts"][1:]}
        for name, held in self.state_dict().items():
            if self.ranks.is_first or name == "alignment":
                held.copy_(state[name])
