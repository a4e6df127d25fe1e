"""What every method adds to a run, measured on a pair of networks: parameters, state and arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from understudy.engine.distiller import Distiller
from understudy.methods import METHODS
from understudy.models import create_model

NUM_IMAGES = 50_000
"""Training images that are assumed: a memory of one row an image (CRD) has this many."""
BATCH_SIZE = 64
"""Images of the step that is counted; the relations of a batch grow with it."""
LABEL = "term"
"""Of the measured term; so cross-entropy may stand beside itself."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one method adds, all settings at their defaults."""

    parameters: int
    """Trained with the student and thrown away, save what the deployed model answers with."""
    state: int
    """Bytes that are kept beside the student and not trained: buffers and frozen layers."""
    step: float
    """FLOPs of a step with cross-entropy and the method over those with cross-entropy alone; no teacher's forward."""


@dataclass(frozen=True, slots=True)
class PairCosts:
    """What all methods cost on one pair."""

    student_parameters: int
    student_step: int
    """FLOPs an image of a step with cross-entropy alone, forward and backward."""
    teacher_forward: int
    """FLOPs an image of the teacher's forward pass, which every method that reads it in a step has on top."""
    methods: Mapping[str, Cost | str]
    """Method -> its cost, or the reason why it refuses the pair."""


def measure(student: str, teacher: str, num_classes: int = 100, size: int = 32) -> PairCosts:
    """Returns what every method of ``METHODS`` adds to a student under a teacher.

    FLOPs are those of convolutions and matrix products, two a multiply-add; elementwise work and decompositions are
    not counted. They depend on shapes alone, so the counted step computes nothing: its tensors are fake.

    Args:
        student: a model by name, as in a config.
        teacher: likewise; its weights do not matter.
        num_classes: of both.
        size: height and width of the images, in pixels.

    Raises:
        ValueError: there is no such model, or it cannot be tapped.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # dry runs of two images: sharing them out takes longer than they do
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            networks = create_model(student, num_classes), create_model(teacher, num_classes)
            return _measure(_Bench(*networks, torch.randn(2, 3, size, size), num_classes))
    finally:
        torch.set_num_threads(threads)


@dataclass(slots=True)
class _Bench:
    """A pair of networks, and how distillers of it are made."""

    student: nn.Module
    teacher: nn.Module
    images: Tensor
    num_classes: int
    class_means: Tensor | None = None

    @contextmanager
    def distiller(self, *terms: Mapping[str, Any]) -> Iterator[Distiller]:
        """Gives a distiller, and takes its taps off again: the next one uses the same networks."""
        distiller = Distiller(
            self.student,
            self.teacher,
            terms,
            example=self.images,
            class_means=self.class_means,
            train_targets=torch.arange(NUM_IMAGES) % self.num_classes,
        )
        try:
            yield distiller
        finally:
            distiller.close()

    def step(self, distiller: Distiller) -> int:
        """Returns the FLOPs an image of one forward and backward pass in training mode, the teacher's forward too."""
        distiller.train()
        if distiller.guides.asked(distiller.active(0)):
            _ = distiller.guides.teachers  # folded at the first question, which is not to be counted
        with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
            images, index = (
                self.images.new_empty(BATCH_SIZE, *self.images.shape[1:]),
                torch.arange(BATCH_SIZE),
            )
            out = distiller(images, index % self.num_classes, index=index)
            # not distiller.backward: a real parameter takes no fake gradient
            torch.autograd.grad(out.loss, distiller.trainable_parameters(), allow_unused=True)
        return counter.get_total_flops() // BATCH_SIZE


def _measure(bench: _Bench) -> PairCosts:
    with bench.distiller({"name": "ce"}) as alone:
        guide = alone.setup.guide
        student_step = bench.step(alone)
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        bench.teacher(bench.images[:1])
    if guide.head is not None:  # given, not averaged over images: their values do not matter
        bench.class_means = torch.zeros(bench.num_classes, guide.classifier.in_features)
    methods: dict[str, Cost | str] = {}
    for name in METHODS:
        try:
            methods[name] = _cost(name, bench, student_step, counter.get_total_flops())
        except ValueError as error:
            methods[name] = str(error).partition(". ")[0]
    parameters = sum(p.numel() for p in bench.student.parameters())
    return PairCosts(parameters, student_step, counter.get_total_flops(), methods)


def _cost(name: str, bench: _Bench, student_step: int, teacher_forward: int) -> Cost:
    # What a pass over the training images learns is not what is measured: one epoch of it will do.
    short = {f.name: 1 for f in dataclasses.fields(METHODS[name]) if f.name.endswith("_epochs")}
    with bench.distiller({"name": "ce"}, {"name": name, "label": LABEL, **short}) as distiller:
        distiller.prepare([(bench.images, torch.arange(len(bench.images)))])
        heads = distiller.heads[LABEL]
        tensors = [*heads.parameters(), *heads.buffers()]
        step = bench.step(distiller)
    if METHODS[name].teacher_taps:
        step -= teacher_forward
    return Cost(
        parameters=sum(t.numel() for t in tensors if t.requires_grad),
        state=sum(t.numel() * t.element_size() for t in tensors if not t.requires_grad),
        step=step / student_step,
    )
