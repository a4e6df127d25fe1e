"""Sums over an epoch that stay on the device: nothing is read on the host until somebody asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from understudy.engine.diagnostics import Diagnostics
from understudy.engine.distributed import Ranks

NEVER = 2**62


class Meters:
    """Running sums of the losses, the accuracy and the alignment of one epoch, and the first non-finite loss.

    Of several processes each adds its own; :meth:`gather` adds them up. Then, as before the first sum, one process
    holds everything and the others nothing, so that a checkpoint of the sums is good for any number of processes.

    Args:
        labels: the terms that are active in this epoch, in order.
        device: where the sums live.
        diagnostics: what is looked at now and then besides; its sums are kept with these.
    """

    def __init__(
        self, labels: Sequence[str], device: torch.device, diagnostics: Diagnostics | None = None
    ) -> None:
        self.ranks = Ranks()
        self.labels = ("loss", *labels)
        self.sums = torch.zeros(len(self.labels), dtype=torch.float64, device=device)
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)  # correct, seen
        self.alignment = torch.zeros(
            3, dtype=torch.float64, device=device
        )  # sum of lambda, conflicts, merges
        self.diagnostics = diagnostics or Diagnostics(0, 0, device)
        self.diagnosed = self.diagnostics.sums
        self.adds = 0
        # for each loss that was not finite when the first one was: the number of that addition
        self.bad = torch.full((len(self.labels),), NEVER, device=device)

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
            logits: of the images that are counted, ``(B, C)``.
            target: likewise, ``(B,)``.
            weight: images that the losses stand for, if not B.
        """
        values = torch.stack([loss.detach(), *(t.detach() for t in terms.values())]).to(torch.float64)
        wrong = ~values.isfinite()
        # what was wrong first, before it spread
        self.bad = torch.where((self.bad == NEVER).all() & wrong, self.adds, self.bad)
        self.adds += 1
        self.sums += values * (len(target) if weight is None else weight)
        self.counts += torch.stack(
            [(logits.argmax(dim=1) == target).sum(), torch.full_like(self.counts[0], len(target))]
        )

    @torch.no_grad()
    def add_alignment(self, info: dict[str, Tensor]) -> None:
        """Adds what one merge of gradients found."""
        if info:
            strength, dot = info["lambda"].to(torch.float64), info["dot"]
            conflict = (dot < 0).to(torch.float64)
            self.alignment += torch.stack(
                [strength.mean(), conflict.mean(), torch.ones_like(self.alignment[2])]
            )

    @torch.no_grad()
    def gather(self) -> None:
        """Moves the sums of all processes to the first one; collective. The alignment is the same on all already."""
        if not self.ranks.several:
            return
        message = torch.cat(
            [self.sums, self.counts.to(torch.float64), self.diagnosed]
        )  # counts: exact to 2^53
        self.ranks.total(message)
        if not self.ranks.is_first:
            message.zero_()
        sums, counts, diagnosed = message.split([len(self.sums), len(self.counts), len(self.diagnosed)])
        self.sums.copy_(sums)
        self.counts.copy_(counts)
        self.diagnosed.copy_(diagnosed)

    def problem(self) -> str | None:
        """Returns the terms that stopped being finite first, or ``None``; reads the device; collective."""
        found = self.bad.clone()
        if self.ranks.several:
            dist.all_reduce(found, dist.ReduceOp.MIN)
        when = found.tolist()
        if min(when) == NEVER:
            return None
        bad = [label for label, addition in zip(self.labels, when, strict=True) if addition == min(when)]
        return ", ".join(label for label in bad if label != "loss") or "loss"

    def summary(self) -> dict[str, float]:
        """Returns the means of the epoch under their names in ``metrics.jsonl``; reads the device.

        With several processes the first one's are right, after :meth:`gather`.
        """
        correct, seen = self.counts.tolist()
        values = (self.sums / max(seen, 1)).tolist()
        summary = {f"train/{label}": value for label, value in zip(self.labels, values, strict=True)}
        summary["train/acc1"] = 100.0 * correct / max(seen, 1)
        strength, conflicts, merges = self.alignment.tolist()
        if merges:
            summary |= {"train/lambda": strength / merges, "train/conflict": 100.0 * conflicts / merges}
        return summary | self.diagnostics.summary()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the sums, for a checkpoint within an epoch."""
        return {
            "sums": self.sums,
            "counts": self.counts,
            "alignment": self.alignment,
            "diagnosed": self.diagnosed,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes saved sums; of several processes the first does, for all."""
        for name, tensor in state.items():
            if self.ranks.is_first or name == "alignment":
                getattr(self, name).copy_(tensor)
