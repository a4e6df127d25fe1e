"""A step's forward and backward passes as one CUDA graph: no launch of single kernels.

Written for a GPU and tested for what it must do on a CPU, with a recorder that runs the passes again in place of the
graph. It has not run on a GPU, and nothing is known of its gain there.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from understudy.engine.backward import StepOutput
from understudy.engine.distiller import Distiller
from understudy.interface import Batch, Outputs
from understudy.words import first_line

REHEARSALS = 3
"""Steps of a kind that run as usual before it is recorded: libraries choose their algorithms in the first ones."""
KEPT = 4
"""Recordings that are kept: whole and last batches, before and after a weight changes."""

Passes = tuple[StepOutput, list[Tensor | None], dict[str, Tensor]]
"""What a step leaves: losses, gradients of the parameters, facts of the alignment."""
Record = Callable[[Callable[[], Passes]], tuple[Passes, Callable[[], None]]]
"""Records a function without its effects; returns the tensors it leaves, and what runs it again into them."""


def cuda_graph(
    function: Callable[[], Passes], device: torch.device | None = None
) -> tuple[Passes, Callable[[], None]]:
    """Records a function as a CUDA graph.

    Only this thread is forbidden what a recording cannot hold: another one pins the memory of the batches to come.

    Args:
        function: what is recorded.
        device: whose kernels they are; torch records those of its current device alone.
    """
    with torch.cuda.device(device):
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            left = function()
    return left, graph.replay


@dataclass(frozen=True, slots=True)
class _Recording:
    inputs: tuple[Tensor, ...]
    left: Passes
    replay: Callable[[], None]


class CapturedSteps:
    """Runs a distiller's forward and backward passes, recorded where they have been rehearsed.

    Another size of batch, another set of terms and another weight is another recording, after a rehearsal of its own.
    If recording fails, all steps run as usual from then on, with one warning.

    Args:
        distiller: in one process, whose parameters stay where they are.
        record: how.
    """

    def __init__(self, distiller: Distiller, record: Record | None = None) -> None:
        self.distiller = distiller
        self._parameters = distiller.trainable_parameters()
        self._record = record or partial(cuda_graph, device=self._parameters[0].device)
        self._seen: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, _Recording] = {}
        self._failed = False

    def __call__(
        self,
        batch: Batch,
        epoch: int,
        counts: tuple[int, ...],
        answers: Mapping[str, Outputs],
        density: Tensor | None = None,
    ) -> StepOutput:
        """Fills the gradients of a batch; what is returned holds until the next step.

        Args:
            batch: of this step.
            epoch: 0-based.
            counts: as :meth:`Distiller.forward` takes them.
            answers: likewise.
            density: likewise.
        """
        names = [(name, role) for name in sorted(answers) for role in sorted(answers[name])]
        shown = (answers[name][role] for name, role in names)
        given = (batch.images, batch.target, batch.index, batch.view, density, *shown)

        def passes(inputs: tuple[Tensor | None, ...]) -> Passes:
            images, target, index, view, density, *shown = inputs
            assert images is not None
            assert target is not None
            known: dict[str, Outputs] = {name: {} for name in answers}
            for (name, role), tensor in zip(names, shown, strict=True):
                known[name] = {**known[name], role: tensor}  # pyright: ignore[reportArgumentType] (shown are there)
            out = self.distiller(
                images,
                target,
                index=index,
                view=view,
                epoch=epoch,
                seed=torch.initial_seed(),
                counts=counts,
                answers=known,
                density=density,
            )
            self.distiller.backward(out)
            gradients = [p.grad for p in self._parameters]
            return out, gradients, dict(self.distiller.alignment)

        kind = self._kind(given, tuple(names), epoch)
        self._seen[kind] = self._seen.get(kind, 0) + 1
        if self._failed or self._seen[kind] <= REHEARSALS:
            return passes(given)[0]
        if kind not in self._recordings and not self._recorded(kind, given, passes):
            return passes(given)[0]
        return self._play(self._recordings[kind], given)

    def _kind(self, given: tuple[Tensor | None, ...], names: Hashable, epoch: int) -> Hashable:
        """Returns what a recording depends on: shapes, and the numbers that are not tensors."""
        shapes = tuple(None if t is None else (tuple(t.shape), t.stride(), t.dtype) for t in given)
        terms = tuple((t.label, t.weight.at(epoch), t.method_at(epoch)) for t in self.distiller.active(epoch))
        return shapes, names, terms, self.distiller.training

    def _recorded(
        self, kind: Hashable, given: tuple[Tensor | None, ...], passes: Callable[[Any], Passes]
    ) -> bool:
        """Records the passes on copies of what they are given; returns whether that worked."""
        copies = tuple(None if t is None else t.clone() for t in given)
        held = [p.grad for p in self._parameters]
        self._put([None] * len(held))
        try:
            left, replay = self._record(lambda: passes(copies))
        except Exception as error:  # what cannot be recorded fails in any way
            reason = first_line(error)
            warnings.warn(
                f"steps run one by one, not as a graph: {type(error).__name__}: {reason}",
                UserWarning,
                stacklevel=3,
            )
            self._failed = True
            self._put(held)
            return False
        self._put(held)
        while len(self._recordings) >= KEPT:
            del self._recordings[next(iter(self._recordings))]
        out, gradients, info = left
        out = _without_graph(out)
        self._recordings[kind] = _Recording(
            tuple(t for t in copies if t is not None), (out, gradients, info), replay
        )
        return True

    def _play(self, recording: _Recording, given: tuple[Tensor | None, ...]) -> StepOutput:
        there = [t for t in given if t is not None]
        for place, tensor in zip(recording.inputs, there, strict=True):
            place.copy_(tensor)
        recording.replay()
        out, gradients, info = recording.left
        self._put(gradients)
        self.distiller.note_alignment(info)
        return out

    def _put(self, gradients: list[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient


def _without_graph(out: StepOutput) -> StepOutput:
    """Returns the same tensors, of which nothing can be differentiated."""
    plain = {
        field.name: value.detach() if isinstance(value := getattr(out, field.name), Tensor) else value
        for field in dataclasses.fields(out)
    }
    return StepOutput(**{**plain, "terms": {label: loss.detach() for label, loss in out.terms.items()}})
