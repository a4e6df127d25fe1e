"""The frozen teachers of a distiller: one or several, each asked once a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from understudy.interface import Batch, Network, Outputs
from understudy.methods.method import TeacherPass
from understudy.methods.term import Term
from understudy.nearest import did_you_mean
from understudy.teacher.frozen import Teacher

ONLY = "teacher"
"""Name of a teacher that is the only one."""


class Guides:
    """All teachers by name, and what each term sees of them."""

    def __init__(self, networks: Mapping[str, Network], terms: Iterable[Term], precision: str) -> None:
        terms = tuple(terms)
        self.teachers = {
            name: Teacher(network, _roles_of(name, terms), precision) for name, network in networks.items()
        }

    def __bool__(self) -> bool:
        return bool(self.teachers)

    def answers(self, terms: Iterable[Term], batch: Batch) -> dict[str, Outputs]:
        """Returns what the teachers show that these terms read; a teacher nobody reads is not run."""
        asked = {term.teacher for term in terms if term.reads_teacher}
        return {
            name: teacher(batch) for name, teacher in self.teachers.items() if name in asked or None in asked
        }

    def of(self, term: Term) -> TeacherPass:
        """Returns how a term asks its teacher while it prepares."""

        def ask(batch: Batch) -> Outputs:
            names = self.teachers if term.teacher is None else (term.teacher,)
            return seen_by(term, {name: self.teachers[name](batch) for name in names})

        return ask

    def predict(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, C)`` that a term without a ``teacher:`` would see."""
        with torch.no_grad():
            shown = [teacher.module(images).float() for teacher in self.teachers.values()]
        return torch.stack(shown).mean(dim=0)

    def close(self) -> None:
        """Removes the taps from all teachers."""
        for teacher in self.teachers.values():
            teacher.close()


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
        beyond = sorted({*term.method.teacher_taps, *term.method.prepare_taps} - {"logits"})
        if term.teacher is None and len(teachers) > 1 and beyond:
            raise ValueError(
                f"term {term.label!r} reads {', '.join(beyond)}, of which several teachers have no mean, got "
                f"{len(teachers)} teachers. Add teacher: {next(iter(teachers))} to the term"
            )


def _roles_of(name: str, terms: Iterable[Term]) -> tuple[str, ...]:
    """Returns the roles that any term reads of one teacher."""
    read = {
        r
        for t in terms
        if t.teacher in (None, name)
        for r in (*t.method.teacher_taps, *t.method.prepare_taps)
    }
    return tuple(sorted(read))
