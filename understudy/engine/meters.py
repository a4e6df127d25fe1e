"""Sums over an epoch that stay on the device: nothing is read on the host until somebody asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Meters:
    """Running sums of the losses, the accuracy and the alignment of one epoch, and the first non-finite loss.

    Args:
        labels: the terms that are active in this epoch, in order.
        device: where the sums live.
    """

    def __init__(self, labels: Sequence[str], device: torch.device) -> None:
        self.labels = ("loss", *labels)
        self.sums = torch.zeros(len(self.labels), dtype=torch.float64, device=device)
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)  # correct, seen
        self.alignment = torch.zeros(
            3, dtype=torch.float64, device=device
        )  # sum of lambda, conflicts, merges
        self.bad = torch.zeros(len(self.labels), dtype=torch.bool, device=device)
        self.failed = torch.zeros((), dtype=torch.bool, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, terms: dict[str, Tensor], logits: Tensor, target: Tensor) -> None:
        """Adds one batch (or one part of it)."""
        values = torch.stack([loss.detach(), *(t.detach() for t in terms.values())]).to(torch.float64)
        wrong = ~values.isfinite()
        self.bad = torch.where(self.failed, self.bad, wrong)  # what was wrong first, before it spread
        self.failed = self.failed | wrong.any()
        self.sums += values * len(target)
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

    def problem(self) -> str | None:
        """Returns the terms that stopped being finite first, or ``None``; reads the device."""
        if not bool(self.failed):
            return None
        bad = [label for label, wrong in zip(self.labels, self.bad.tolist(), strict=True) if wrong]
        return ", ".join(label for label in bad if label != "loss") or "loss"

    def summary(self) -> dict[str, float]:
        """Returns the means of the epoch under their names in ``metrics.jsonl``; reads the device."""
        correct, seen = self.counts.tolist()
        values = (self.sums / max(seen, 1)).tolist()
        summary = {f"train/{label}": value for label, value in zip(self.labels, values, strict=True)}
        summary["train/acc1"] = 100.0 * correct / max(seen, 1)
        strength, conflicts, merges = self.alignment.tolist()
        if merges:
            summary |= {"train/lambda": strength / merges, "train/conflict": 100.0 * conflicts / merges}
        return summary

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the sums, for a checkpoint within an epoch."""
        return {"sums": self.sums, "counts": self.counts, "alignment": self.alignment}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes saved sums."""
        for name, tensor in state.items():
            getattr(self, name).copy_(tensor)
