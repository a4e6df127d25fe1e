"""Divergence: losses, gradients or weights that are not finite, losses that explode, predictions that collapse.

A step leaves one row of numbers on the device: the losses of the global batch and the norm of the gradient. The host
reads the rows together, every :data:`CHECK_EVERY` steps and before every checkpoint, and then looks at the weights,
which no loss has seen since the last step: so a checkpoint is always good. The policy ``skip`` must know sooner: it
compares the row with its limits on the device, and what a bad step changed is put back there, too, without asking the
host.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from understudy.config import DivergenceConfig
from understudy.engine.distributed import Ranks
from understudy.engine.ema import MovingAverage
from understudy.engine.meters import Meters
from understudy.widest import widest

CHECK_EVERY = 50
"""Steps between two looks at the losses (each look waits for the device)."""
SETTLED = 20
"""Steps a term must have been seen before its loss is compared with what it was."""
UNSETTLED = 1e8
"""What no loss may exceed before that: a run that explodes at once must not set its own measure."""
SIGMOID = frozenset(("binary_kl", "binary_kl_norm"))
"""Losses that the DHKD paper found to collapse on the head that cross-entropy trains (App. A)."""


class DivergedError(ValueError):
    """The training diverged, and its policy does not go on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What went wrong, and where it was first seen."""

    must: str
    """What must hold."""
    what: str
    """What was got."""
    epoch: int
    """From 1."""
    step: int | None
    """From 1, within the epoch; ``None`` for a whole epoch."""

    def place(self) -> str:
        """Returns where, in words."""
        return f"in epoch {self.epoch}" + (f", step {self.step}" if self.step is not None else "")

    def event(self, did: str) -> dict[str, Any]:
        """Returns the entry of ``result.json``."""
        return {"epoch": self.epoch, "step": self.step, "what": self.what, "did": did}


class SetbackError(Exception):
    """The run must go back to its last good epoch."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.what)
        self.finding = finding


class Watch:
    """Watches a run, and keeps what happened.

    Its methods are collective, and every process finds the same. Between :meth:`begin` and :meth:`end` of a step lie
    the forward and backward passes, :meth:`judge`, and everything the step changes.

    Args:
        config: the policy and its numbers.
        model: whose buffers a step may change (running statistics, memories).
        hint: what to do about a divergence of this run, for the message.
        device: where the losses live.
    """

    def __init__(self, config: DivergenceConfig, model: nn.Module, hint: str, device: torch.device) -> None:
        self.config, self.hint, self.device = config, hint, device
        self.ranks = Ranks()
        self.skips = config.policy == "skip"
        self.rewinds = config.policy == "rewind"
        self.lr_scale = 1.0
        """What the learning rate is multiplied by, since the run went back."""
        self.suspects = 0
        """Epochs in a row whose predictions were of one class."""
        self.events: list[dict[str, Any]] = []
        """What happened so far, as in ``result.json``."""
        self._model = model
        self._peaks: dict[str, list[float]] = {}  # label -> highest mean of a window, steps seen; of weight 1
        self._skipped = 0  # in this epoch, up to the last boundary
        self._first: Finding | None = None  # of the skipped ones
        self._labels: list[str] = []
        self._weights: list[float] = []
        self._rows, self._filled = torch.zeros(0), 0
        self._saved: Tensor | None = None
        self._held: list[tuple[Tensor, Tensor]] = []
        self._settled: list[tuple[Any, bool]] = []  # modules that know something of their buffers on the host
        self._set_limits()

    def start_epoch(self, weights: Mapping[str, float]) -> None:
        """Prepares for the (rest of an) epoch with the weights of its active terms."""
        self._labels, self._weights = list(weights), list(weights.values())
        self._rows = torch.zeros(CHECK_EVERY, len(weights) + 2, dtype=widest(self.device), device=self.device)
        self._filled = 0
        if self._saved is not None:
            self._filled = len(self._saved)
            if self.ranks.is_first:
                self._rows[: self._filled] = self._saved
            self._saved = None
        self._set_limits()

    def begin(self, meters: Meters, average: MovingAverage | None) -> None:
        """Notes what a step will change."""
        self._sums = meters.sums.clone()
        if not self.skips:
            return
        state = [*self._model.buffers(), *meters.state_dict().values()]
        state += list(average.average.values()) if average is not None else []
        self._held = [(tensor, tensor.clone()) for tensor in state]
        modules = [m for m in self._model.modules() if hasattr(m, "ready")]
        self._settled = [(m, bool(m.ready)) for m in modules]

    @torch.no_grad()
    def judge(
        self,
        meters: Meters,
        images: int,
        optimizer: torch.optim.Optimizer,
        norm: Tensor,
    ) -> None:
        """Takes down a step's losses and gradient; tells the optimiser whether to leave the step out.

        Args:
            meters: after the step's losses were added.
            images: of the global batch.
            optimizer: a fused one, which looks at ``found_inf`` on the device.
            norm: of the gradient.
        """
        mine = norm if self.ranks.is_first else torch.zeros_like(norm)  # all processes have the same
        losses = (meters.sums - self._sums)[: 1 + len(self._labels)] / images
        row = torch.cat([losses, mine.to(device=losses.device, dtype=losses.dtype).reshape(1)])
        if self.skips:
            self.ranks.total(row)
            self._good = (row.abs() <= self._limits_there).all()
            optimizer.grad_scale = None  # pyright: ignore[reportAttributeAccessIssue] (as torch's GradScaler does)
            optimizer.found_inf = (~self._good).to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
            if not self.ranks.is_first:
                row.zero_()
        self._rows[self._filled] = row
        self._filled += 1

    @torch.no_grad()
    def end(self) -> None:
        """Puts back what a step that was left out has changed."""
        for tensor, before in self._held:
            tensor.copy_(torch.where(self._good, tensor, before))
        if any(module.ready != before for module, before in self._settled) and not bool(self._good):
            for module, before in self._settled:  # once a run, so the host may ask
                module.ready = before
        self._held, self._settled = [], []

    def look(self, epoch: int, step: int, last: bool = False) -> Finding | None:
        """Returns the first step that went wrong and cannot be left out, or ``None``; reads the device.

        Args:
            epoch: epochs done.
            step: steps done in this epoch.
            last: whether the epoch ends here.
        """
        here = self._rows[: self._filled]
        self.ranks.total(here)
        rows = here.tolist()
        if not self.ranks.is_first:
            here.zero_()
        found = [
            self._finding(row, epoch, step - len(rows) + number)
            for number, row in enumerate(rows, start=1)
            if self._is_bad(row)
        ]
        first = self._first or (found[0] if found else None)
        skipped = self._skipped + len(found)
        if found and not (self.skips and skipped <= self.config.skips):
            return first
        spoiled = self._spoiled()
        if spoiled is not None:
            what = f"NaN or infinity in {spoiled}"
            return Finding("the weights must stay finite", what, epoch + 1, step)
        if last or self._filled == CHECK_EVERY:
            self._skipped, self._first, self._filled = skipped, first, 0
            self._raise_peaks([row for row in rows if not self._is_bad(row)])
        return None

    def finish_epoch(
        self, meters: Meters, epoch: int, learning: bool
    ) -> tuple[dict[str, int], Finding | None]:
        """Returns what is said of an epoch in the metrics, and whether its predictions collapsed.

        Args:
            meters: after :meth:`Meters.gather`.
            epoch: from 1.
            learning: whether a loss of this epoch reads the logits; otherwise they say nothing.
        """
        line: dict[str, int] = {}
        if self._first is not None:
            line["train/skipped"] = self._skipped
            self.events.append(self._first.event("skipped") | {"steps": self._skipped})
        self._skipped, self._first = 0, None
        if self.config.collapse_epochs is None or not learning:
            return line, None
        collapsed = self.ranks.first(meters.collapsed)
        self.suspects = self.suspects + 1 if collapsed is not None else 0
        if self.suspects < self.config.collapse_epochs:
            return line, None
        what = f"class {collapsed} for nearly all training images over {self.suspects} epochs"
        return line, Finding("predictions must not collapse to one class", what, epoch, None)

    def may_rewind(self) -> bool:
        """Whether the policy lets the run go back once more."""
        done = sum(event["did"] == "rewound" for event in self.events)
        return self.rewinds and done < self.config.rewinds

    def went_back(self, finding: Finding, history: Mapping[str, Any]) -> None:
        """Goes on, after the good state was loaded, with a lower rate and with what is known of the run.

        Args:
            finding: why it went back.
            history: :meth:`state_dict` from before the good state was loaded.
        """
        self.lr_scale = history["lr_scale"] * self.config.lr_factor
        self.events = [*history["events"], finding.event("rewound") | {"lr_scale": self.lr_scale}]

    def stopped(self, finding: Finding, kept: str) -> DivergedError:
        """Returns the error that ends the run, after noting it.

        Args:
            finding: why it ends.
            kept: what is left of it, as a sentence.
        """
        self.events.append(finding.event("stopped"))
        before = [e for e in self.events if e["did"] == "rewound"]
        tried = f" after going back {len(before)} times" if before else ""
        if self.skips and finding.step is not None:
            tried = f", one of more than {self.config.skips} steps to leave out in this epoch"
        return DivergedError(
            f"{finding.must}, got {finding.what} {finding.place()}{tried}. {self.hint}. {kept}"
        )

    def report(self) -> dict[str, Any]:
        """Returns what ``result.json`` says."""
        return {"policy": self.config.policy, "events": self.events}

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        first = self._first
        return {
            "rows": self._rows[: self._filled] if self._saved is None else self._saved,
            "peaks": self._peaks,
            "skipped": self._skipped,
            "first": None if first is None else [first.must, first.what, first.epoch, first.step],
            "suspects": self.suspects,
            "lr_scale": self.lr_scale,
            "events": self.events,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what a checkpoint kept."""
        self._saved, self._filled = state["rows"] if len(state["rows"]) else None, 0
        self._peaks = {label: list(peak) for label, peak in state["peaks"].items()}
        self._skipped, self.suspects = state["skipped"], state["suspects"]
        self._first = None if state["first"] is None else Finding(*state["first"])
        self.lr_scale, self.events = state["lr_scale"], list(state["events"])

    def _set_limits(self) -> None:
        """Each column's limit until the next boundary: finite, and for a settled term not too far above its peak."""
        limits = [sys.float_info.max]
        for label, weight in zip(self._labels, self._weights, strict=True):
            peak, steps = self._peaks.get(label, (0.0, 0))
            if self.config.explosion is None:
                limits.append(limits[0])
            elif steps < SETTLED:
                limits.append(UNSETTLED)
            else:  # what adds less than 1 to the loss does no harm, however small it was
                limits.append(max(1.0, self.config.explosion * peak * abs(weight)))
        self._limits = [*limits, limits[0]]
        if self.skips:
            self._limits_there = torch.tensor(self._limits, dtype=widest(self.device), device=self.device)

    def _spoiled(self) -> str | None:
        """Returns the name of a weight that is not finite, ``None`` if all are."""
        weights = {n: _own_rows(p.detach()) for n, p in self._model.named_parameters() if p.requires_grad}
        there = [weight for weight in weights.values() if weight.numel()]
        largest = nn.utils.get_total_norm(there, math.inf) if there else torch.zeros(())
        if math.isfinite(self.ranks.total(largest.to(self.device, widest(self.device)))):
            return None
        mine = next((name for name, weight in weights.items() if not weight.isfinite().all()), None)
        return next((name for name in self.ranks.exchange(mine) if name is not None), "a weight")

    def _is_bad(self, row: list[float]) -> bool:
        return not all(abs(value) <= limit for value, limit in zip(row, self._limits, strict=True))

    def _finding(self, row: list[float], epoch: int, step: int) -> Finding:
        names = ["loss", *self._labels, "the gradient"]
        infinite = [name for name, value in zip(names, row, strict=True) if not math.isfinite(value)]
        if infinite:
            named = [n for n in infinite if n in self._labels] or infinite[:1]
            must = f"the {'gradient' if named == names[-1:] else 'loss'} must stay finite"
            return Finding(must, f"NaN or infinity in {', '.join(named)}", epoch + 1, step)
        grown = [
            f"{name} at {value:.4g} (limit {limit:.4g})"
            for name, value, limit in zip(names, row, self._limits, strict=True)
            if abs(value) > limit
        ]
        return Finding("the loss must not explode", ", ".join(grown), epoch + 1, step)

    def _raise_peaks(self, rows: list[list[float]]) -> None:
        for column, (label, weight) in enumerate(zip(self._labels, self._weights, strict=True), start=1):
            if rows and weight:
                mean = sum(abs(row[column]) for row in rows) / len(rows) / abs(weight)
                peak, steps = self._peaks.get(label, (0.0, 0))
                self._peaks[label] = [max(peak, mean), steps + len(rows)]
        self._set_limits()


def _own_rows(weight: Tensor) -> Tensor:
    """Returns a weight, or this process's rows of one that is divided (FSDP2)."""
    divided = getattr(weight, "to_local", None)  # a torch without processes does not know the class
    return weight if divided is None else divided()


def hint(names: Iterable[str]) -> str:
    """Returns what to do about a divergence under these methods.

    Example:
        >>> hint(["ce", "binary_kl_norm"])
        'A sigmoid loss on the head of cross-entropy is a known cause: use the term dhkd, which gives it its own head'
    """
    names = set(names)
    if "ce" in names and names & SIGMOID:
        return (
            "A sigmoid loss on the head of cross-entropy is a known cause: use the term dhkd, which gives it its own "
            "head"
        )
    return "Lower train.optimizer.lr or the term's weight, or set train.clip_norm"
