"""Backward: gradients of both sides of the loss, merged as docs/methods.md says, into `.grad`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from understudy.engine.distributed import Ranks, Share
from understudy.engine.optim import laid_out
from understudy.engine.reduction import GradientMean, Gradients
from understudy.engine.sharding import Shards
from understudy.gradients import align_features, align_gradients
from understudy.gradients.align import Role
from understudy.interface import Align


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one forward pass of a distiller returns.

    Of several processes each has losses of its own; their mean is the loss of the global batch.
    """

    loss: Tensor
    """The weighted sum of all terms, 0-d."""
    terms: dict[str, Tensor]
    """Label of each active term -> its weighted loss."""
    logits: Tensor
    """``(B, C)`` logits of the model that will be deployed."""
    network_logits: Tensor
    """Logits of the student's own classifier, of all images that this process computed."""
    share: Share
    """Which part of the global batch this process held."""
    label_loss: Tensor | None
    """L_1 of the alignment: the terms that learn from labels alone."""
    guide_loss: Tensor | None
    """L_2: everything else."""
    feature: Tensor | None = None
    """The student's penultimate feature, where it has one."""
    teacher_logits: Tensor | None = None
    """``(B, C)`` of the teacher, where there is one alone and a term reads them."""
    judged: Tensor | None = None
    """The labels of what the logits are of."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """What the label's loss is the sum of, where the task tells."""


@dataclass(slots=True)
class Backward:
    """Fills ``.grad`` of the parameters; holds unmerged gradients while a batch is accumulated in parts.

    Both sides' gradients are averaged over the processes before they are merged: λ is not linear, so merging first
    would depend on the number of processes. All of them then find the same λ.
    """

    parameters: Mapping[str, nn.Parameter]
    """Those that are trained; :meth:`follow` takes others."""
    align: Align
    ranks: Ranks
    shards: Shards | None = None
    """The student, where each process holds its rows; then ``align`` must be ``none``."""
    twin: bool = False
    """Whether both sides' gradients come of one vectorised pass, not of two passes one after another; of several
    processes they never do."""
    info: dict[str, Tensor] = field(default_factory=dict)
    """``lambda``, ``dot``, ``norm_sq`` and ``cosine`` of the last merge, on the device; empty if none was made."""
    _label: Gradients = field(default_factory=list)
    _guide: Gradients = field(default_factory=list)
    whole: dict[str, nn.Parameter] = field(init=False)
    """Those of the parameters that are not divided."""
    _mean: GradientMean = field(init=False)

    def __post_init__(self) -> None:
        self._take(self.parameters)

    def follow(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Takes other parameters, where some were frozen, freed or added since the last batch.

        Raises:
            ValueError: it was within a batch.
        """
        if list(map(id, parameters.values())) == list(map(id, self.parameters.values())):
            return
        if self._label:
            raise ValueError(
                "the trained parameters must stay the same within a batch, got others than in its earlier parts. "
                "Freeze and free them between two batches"
            )
        self._take(parameters)

    def _take(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = parameters
        own = set() if self.shards is None else {id(p) for p in self.shards.own.values()}
        self.whole = {name: p for name, p in self.parameters.items() if id(p) not in own}
        self._mean = GradientMean(self.whole, self.ranks)

    def __call__(self, out: StepOutput, *, last: bool = True, scale: float = 1.0) -> None:
        """Differentiates ``scale`` times the losses of ``out``; merges and writes ``.grad`` if it is the ``last`` part.

        As with ``loss.backward()``, what already stands in ``.grad`` is added to. A parameter that no loss reaches
        keeps what it has.
        """
        if out.terms and not out.loss.requires_grad:
            raise ValueError(
                f"backward must follow a forward that kept its graph, got a loss of {', '.join(out.terms)} without. "
                "Call the distiller outside torch.no_grad(), with a student that can be trained"
            )
        if self.shards is not None:
            self._through_shards(self.shards, out, last, scale)
            return
        label, guide = self._differentiate(out, scale)
        self._label = _add(self._label, label)
        self._guide = _add(self._guide, guide)
        if last:
            self._label, self._guide = self._mean(self._label, self._guide, terms=tuple(out.terms))
            merged = self._merge()
            self.forget()
            taken = set()
            for parameter, gradient in zip(self.parameters.values(), merged, strict=True):
                if gradient is not None:
                    gradient = laid_out(gradient, parameter)
                    if gradient.layout == torch.strided:
                        if gradient.data_ptr() in taken:  # of a sum of two parameters both get one tensor
                            gradient = gradient.clone()
                        taken.add(gradient.data_ptr())
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def forget(self) -> None:
        """Drops the gradients of parts that were not merged."""
        self._label, self._guide = [], []

    def _through_shards(self, shards: Shards, out: StepOutput, last: bool, scale: float) -> None:
        """FSDP2 averages the student's gradients while it differentiates; the heads' are averaged here."""
        if out.loss.requires_grad:
            shards.backward(out.loss * scale, out.network_logits, last)
        heads = list(self.whole.values())
        if last and heads:
            (means,) = self._mean([p.grad for p in heads], terms=tuple(out.terms))
            for parameter, mean in zip(heads, means, strict=True):
                parameter.grad = mean

    def _differentiate(self, out: StepOutput, scale: float) -> tuple[Gradients, Gradients]:
        """Returns the gradients of L_1 and L_2, or of their sum and nothing where they need not be told apart."""
        parameters = list(self.parameters.values())
        nothing: Gradients = [None] * len(parameters)
        self.info = {}
        if not out.loss.requires_grad:  # every weight is 0 in this epoch
            return nothing, nothing
        if self.align == "none" or out.label_loss is None or out.guide_loss is None:
            return _grad(out.loss * scale, parameters), nothing
        if self.align == "feature":
            return self._through_feature(out, scale), nothing
        sides = out.label_loss * scale, out.guide_loss * scale
        # what several processes do to each other in a backward pass (norms over all images) takes no vectorised one
        if self.twin and not self.ranks.several and all(side.requires_grad for side in sides):
            return twin_gradients(*sides, parameters)
        label = _grad(sides[0], parameters, retain=True)
        return label, _grad(sides[1], parameters)

    def _through_feature(self, out: StepOutput, scale: float) -> Gradients:
        """One backward of L_1 + L_2 with λ·a_h added to the feature's cotangent, which is (1+λ)a_h + b_h there.

        Paths of L_2 that do not pass through the feature (stage taps) are thereby left as they are. With
        accumulation each part has a λ of its own: the graphs of earlier parts are gone when the last one comes.
        """
        assert out.feature is not None
        if not out.feature.requires_grad:  # nothing to align: the backbone is frozen
            return _grad(out.loss * scale, list(self.parameters.values()))
        assert out.label_loss is not None
        assert out.guide_loss is not None
        (a,) = _grad(out.label_loss, [out.feature], retain=True)
        (b,) = _grad(out.guide_loss, [out.feature], retain=True)
        if a is None or b is None:
            return _grad(out.loss * scale, list(self.parameters.values()))
        _, self.info = align_features(a, b, self._total if out.share.divided else None)
        cotangent = (self.info["lambda"] * a * scale).to(out.feature.dtype)
        return list(
            torch.autograd.grad(
                [out.loss, out.feature],
                list(self.parameters.values()),
                grad_outputs=[torch.full_like(out.loss, scale), cotangent],
                allow_unused=True,
            )
        )

    def _total(self, numbers: Tensor) -> Tensor:
        """Returns products of two gradients, summed over the processes, of the mean loss."""
        return self.ranks.total(numbers) / self.ranks.world**2

    def _merge(self) -> Gradients:
        if all(g is None for g in self._guide):
            return self._label
        names = list(self.parameters)
        label = {n: g for n, g in zip(names, self._label, strict=True) if g is not None}
        guide = {n: g for n, g in zip(names, self._guide, strict=True) if g is not None}
        roles: dict[str, Role] = {}
        for name in names:
            if name in label or name in guide:
                roles[name] = (
                    "backbone" if name in label and name in guide else "main" if name in label else "aux"
                )
        assert self.align != "feature"  # merged before the backward of the backbone
        merged, self.info = align_gradients(label, guide, roles, self.align)
        return [merged.get(n) for n in names]


def _grad(loss: Tensor, inputs: list[nn.Parameter] | list[Tensor], retain: bool = False) -> Gradients:
    if not loss.requires_grad:  # all that it reaches is frozen
        return [None] * len(inputs)
    return list(torch.autograd.grad(loss, inputs, retain_graph=retain, allow_unused=True))


def twin_gradients(
    label: Tensor, guide: Tensor, parameters: list[nn.Parameter]
) -> tuple[Gradients, Gradients]:
    """Returns the gradients of two losses by one backward pass over a pair of cotangents (``torch.vmap``).

    The same as two passes up to rounding: every operation is launched once, on twice the data. Two passes as parallel
    branches of one CUDA graph are no alternative, since autograd runs an operation's backward on the stream of its
    forward, which both share.

    Args:
        label: 0-d.
        guide: 0-d, of the same forward pass.
        parameters: what to differentiate by.
    """
    losses = (label, guide)
    pairs = [row.to(loss.dtype) for loss, row in zip(losses, torch.eye(2, device=label.device), strict=True)]
    both = torch.autograd.grad(losses, parameters, pairs, is_grads_batched=True, allow_unused=True)
    # a loss that does not reach a parameter leaves zeros, not None
    reached = [_leaves(loss) for loss in losses]
    first, second = (
        [None if g is None or id(p) not in leaves else g[i] for p, g in zip(parameters, both, strict=True)]
        for i, leaves in enumerate(reached)
    )
    return first, second


def _leaves(loss: Tensor) -> set[int]:
    """Returns the ids of the parameters that a loss depends on."""
    seen, leaves, ahead = set(), set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
            if (leaf := getattr(node, "variable", None)) is not None:
                leaves.add(id(leaf))
    return leaves


def _add(held: Gradients, new: Gradients) -> Gradients:
    if not held:
        return new
    return [a if b is None else b if a is None else a + b for a, b in zip(held, new, strict=True)]
