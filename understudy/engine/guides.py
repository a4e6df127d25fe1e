"""The frozen teachers of a distiller: one or several, each asked once a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from understudy.engine.distributed import Ranks
from understudy.engine.sharding import divide
from understudy.interface import Batch, Network, Outputs
from understudy.methods.method import TeacherPass
from understudy.methods.term import Term
from understudy.taps import without_hooks
from understudy.teacher.fold import Folding, fold_batch_norms
from understudy.teacher.frozen import Teacher
from understudy.teacher.on_batch import BatchStatistics
from understudy.words import did_you_mean

ONLY = "teacher"
"""Name of a teacher that is the only one."""
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class Guides:
    """All teachers by name, and what each term sees of them.

    Each runs with its batch norms folded (unless a term wants them to see each batch), on a copy that is made at the
    first question. The copy follows the network it was made of: when weights are loaded into that, or it is moved to
    another device, the next question finds out and folds anew. (What a method's heads took of it before stays.)

    Args:
        networks: by name.
        terms: what reads them.
        precision: in which they run.
        example: one image batch, for dry runs; it lies where the teachers run.
        divided: names of those of which each process keeps its rows alone (FSDP2), where there are several. They may
            lie on the host; to be asked they must be by all processes.
    """

    def __init__(
        self,
        networks: Mapping[str, Network],
        terms: Iterable[Term],
        precision: str,
        example: Tensor,
        divided: Iterable[str] = (),
    ) -> None:
        self.networks = dict(networks)
        """The teachers as given."""
        self._terms, self._example = tuple(terms), example
        self.divided = frozenset(divided) if Ranks().several else frozenset()
        """Names of the teachers that must be asked by all processes together."""
        self._precision = dict.fromkeys(self.networks, precision)
        self._folded: dict[str, tuple[Folding, Teacher, object]] = {}
        for network in self.networks.values():
            network.module.eval().requires_grad_(False)

    def __bool__(self) -> bool:
        return bool(self.networks)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_folded": {}}  # a copy folds its own

    @property
    def teachers(self) -> dict[str, Teacher]:
        """The teachers as they run."""
        return {name: self._present(name) for name in self.networks}

    @property
    def notes(self) -> dict[str, str]:
        """What folding did to each teacher, in a line."""
        return {name: self._folded[name][0].note for name in self.teachers}

    def run_in(self, name: str, precision: str) -> None:
        """Sets the precision of a teacher: ``bf16`` runs it under autocast."""
        self._precision[name] = precision
        if name in self._folded:
            self._folded[name][1].precision = precision

    def step_roles(self, name: str) -> tuple[str, ...]:
        """Returns the roles that the terms read of a teacher in a step."""
        return self._roles(name, lambda term: term.method.teacher_roles)

    def asked(self, terms: Iterable[Term]) -> set[str]:
        """Returns the names of the teachers that any of these terms reads in a step."""
        named = {term.teacher for term in terms if term.reads_teacher}
        return set(self.networks) if None in named else {name for name in named if name is not None}

    def by_batch(self, name: str) -> bool:
        """Returns whether a term wants a teacher's batch norms to take the statistics of each batch."""
        return any(t.method.teacher_by_batch for t in self._terms if t.teacher in (None, name))

    def answers(
        self, terms: Iterable[Term], batch: Batch, known: Mapping[str, Outputs] | None = None
    ) -> dict[str, Outputs]:
        """Returns what the teachers show that these terms read; a teacher nobody reads is not run.

        Args:
            terms: of the step.
            batch: what is asked about.
            known: answers that are there already, by teacher; these teachers are not run.
        """
        known = known or {}
        asked = self.asked(terms)
        return {
            name: known[name] if name in known else self._in_step(name, batch)
            for name in self.networks
            if name in asked
        }

    def of(self, term: Term) -> TeacherPass:
        """Returns how a term asks its teacher while it prepares."""

        def ask(batch: Batch) -> Outputs:
            names = self.networks if term.teacher is None else (term.teacher,)
            return seen_by(term, {name: self._present(name)(batch) for name in names})

        return ask

    def predict(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, C)`` that a term without a ``teacher:`` would see."""
        with torch.no_grad():
            shown = [teacher.module(images).float() for teacher in self.teachers.values()]
        for teacher in self.teachers.values():
            teacher.taps.forget()
        return torch.stack(shown).mean(dim=0)

    def close(self) -> None:
        """Removes the taps from all teachers."""
        for _, teacher, _ in self._folded.values():
            teacher.close()

    def _in_step(self, name: str, batch: Batch) -> Outputs:
        teacher = self._present(name)
        with BatchStatistics() if self.by_batch(name) else nullcontext():
            return teacher(batch)

    def _present(self, name: str) -> Teacher:
        """Returns a teacher, folded if this is the first question or its network was changed since."""
        network = self.networks[name]
        state = _state(network.module)
        if name not in self._folded or self._folded[name][2] != state:
            if name in self._folded:
                self._folded[name][1].close()
            folding = self._fold(name)
            roles = self._roles(name, lambda term: (*term.method.teacher_roles, *term.method.prepare_taps))
            self._folded[name] = folding, Teacher(folding.network, roles, self._precision[name]), state
        return self._folded[name][1]

    def _fold(self, name: str) -> Folding:
        """Returns a teacher with its batch norms folded, each process holding its rows if it is to be divided."""
        network = self.networks[name]
        place = next(network.module.parameters(), self._example)
        if self.by_batch(name):
            norms = (
                "the teacher runs unfolded: its batch norms take the statistics of each batch (teacher_bn)"
            )
            folding = Folding(network, (), (), norms)
        else:
            folding = fold_batch_norms(network, self._example.to(place.device))
        if name not in self.divided:
            return folding
        module = folding.network.module
        own = without_hooks(module) if module is network.module else module  # the given one stays as it is
        divide(own, self._example.device)
        note = f"{folding.note}; divided among {Ranks().world} processes"
        return replace(folding, network=replace(folding.network, module=own), note=note)

    def _roles(self, name: str, read: Callable[[Term], Iterable[str]]) -> tuple[str, ...]:
        return tuple(sorted({role for t in self._terms if t.teacher in (None, name) for role in read(t)}))


def _state(module: nn.Module) -> object:
    """Returns what changes when a network's tensors are written to or exchanged (``tensor.data`` apart)."""
    tensors = chain(module.parameters(), module.buffers())
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def seen_by(term: Term, answers: Mapping[str, Outputs]) -> Outputs:
    """Returns what a term sees: its named teacher, the only one, or the mean logits of all."""
    if term.teacher is not None:
        return answers[term.teacher]
    if len(answers) == 1:
        return next(iter(answers.values()))
    return {"logits": torch.stack([shown["logits"] for shown in answers.values()]).mean(dim=0)}


def by_name(teacher: nn.Module | Mapping[str, nn.Module] | None) -> dict[str, nn.Module]:
    """Returns the teachers by name, a single one under the name ``teacher``."""
    if teacher is None:
        return {}
    return dict(teacher) if isinstance(teacher, Mapping) else {ONLY: teacher}


def check_networks(student: nn.Module, teachers: Mapping[str, nn.Module]) -> None:
    """Refuses networks in a wrapper, and a student that shares parameters with a teacher, who would be frozen."""
    for name, module in (("student", student), *teachers.items()):
        if isinstance(module, _WRAPPERS) or "_orig_mod" in module._modules:
            raise ValueError(
                f"{name} must be the network itself, got a {type(module).__name__} around it. Pass what is inside: "
                "processes are found without it, and compile_student() compiles"
            )
    own = {id(parameter): name for name, parameter in student.named_parameters()}
    for module in teachers.values():
        shared = next((own[id(p)] for p in module.parameters() if id(p) in own), None)
        if shared is not None:
            raise ValueError(
                f"student and teacher must have no parameter in common, got {shared} in both: the teacher is frozen. "
                "Give the teacher a copy of its own (copy.deepcopy)"
            )


def check_teachers(terms: Iterable[Term], teachers: Mapping[str, nn.Module]) -> None:
    """Refuses a term whose teacher does not exist, or cannot be a mean of several."""
    for term in terms:
        if term.teacher is not None and term.teacher not in teachers:
            hint = did_you_mean(term.teacher, teachers)
            raise ValueError(
                f"term {term.label!r} must name a teacher there is, got {term.teacher!r}. {hint}"
            )
        if not term.needs_teacher:
            continue
        if not teachers:
            raise ValueError(
                f"term {term.label!r} must have a teacher, got none. Add a teacher: section, or leave the term out"
            )
        beyond = sorted({*term.method.teacher_roles, *term.method.prepare_taps} - {"logits"})
        if term.teacher is None and len(teachers) > 1 and beyond:
            raise ValueError(
                f"term {term.label!r} reads {', '.join(beyond)}, of which several teachers have no mean, got "
                f"{len(teachers)} teachers. Add teacher: {next(iter(teachers))} to the term"
            )
