"""Terms: what stands in a config's `losses:`, a method with a weight that may ramp, stop and come back."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from understudy.methods import METHODS
from understudy.methods.method import Method
from understudy.methods.schedule import Points, Weight
from understudy.words import did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


@dataclass(frozen=True, slots=True)
class Term:
    """A named, weighted loss."""

    label: str
    name: str
    """What the config calls the method: a key of ``METHODS``, or ``package.module:Class``."""
    method: Method
    """As it is in the first epoch."""
    weight: Weight
    schedules: Mapping[str, Points] = field(default_factory=dict)
    """The method's numbers that change by epoch."""
    teacher: str | None = None
    """Which of several teachers the term learns from; ``None`` is the only one, or the mean of all."""

    @property
    def needs_teacher(self) -> bool:
        """Whether there must be a teacher for the term."""
        return bool(self.method.teacher_taps or self.method.prepare_taps)

    @property
    def reads_teacher(self) -> bool:
        """Whether the term reads the teacher in every step, not only while it prepares."""
        return bool(self.method.teacher_taps)

    def method_at(self, epoch: int) -> Method:
        """Returns the method with its numbers of an epoch (0-based)."""
        if not self.schedules:
            return self.method
        values = {name: points.at(epoch) for name, points in self.schedules.items()}
        return dataclasses.replace(self.method, **values)

    def describe(self) -> str:
        """Returns the weight and the settings in a few words."""
        entry = self.spec()
        weight = entry.pop("weight")
        if isinstance(weight, dict):
            defaults = dataclasses.asdict(Weight())
            weight = ", ".join(f"{k} {v}" for k, v in weight.items() if k == "value" or v != defaults[k])
        rest = [f"{key} {value}" for key, value in entry.items() if key not in ("name", "label")]
        return ", ".join([f"weight {weight}", *rest])

    def spec(self) -> dict[str, Any]:
        """Returns the config entry that rebuilds the term, every default written out."""
        weight = dataclasses.asdict(self.weight)
        plain = weight == dataclasses.asdict(Weight(value=self.weight.value))
        entry: dict[str, Any] = {"name": self.name, "weight": self.weight.value if plain else _plain(weight)}
        if self.label != _default_label(self.name):
            entry["label"] = self.label
        if self.teacher is not None:
            entry["teacher"] = self.teacher
        settings = dataclasses.asdict(self.method)
        settings |= {name: dataclasses.asdict(points) for name, points in self.schedules.items()}
        return entry | {key: _plain(value) for key, value in settings.items()}


def build_terms(specs: Iterable[Mapping[str, Any]]) -> tuple[Term, ...]:
    """Returns the terms of a config's ``losses:``.

    Args:
        specs: mappings with ``name``, optional ``weight`` (a number or the fields of :class:`Weight`), optional
            ``label`` (the term's name in logs; needed only where a method stands twice), optional ``teacher`` (one
            of several), and the method's own fields, any number of which may be ``{points: ...}``.

    Raises:
        ValueError: unknown method or key, a value out of range, a label used twice, no term at all.
    """
    terms = tuple(build_term(spec, f"losses[{i}]") for i, spec in enumerate(specs))
    if not terms:
        raise ValueError("losses must hold at least one term, got none. Add {name: ce}")
    labels = [term.label for term in terms]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(
                f"every term must have a label of its own, got {label!r} twice. Add label: to one of them"
            )
    replacing = [term.label for term in terms if term.method.replaces_classifier]
    if len(replacing) > 1:
        raise ValueError(
            f"only one term may replace the student's classifier, got {' and '.join(replacing)}. Keep one of them"
        )
    return terms


def judging_terms(terms: Iterable[Term]) -> list[Term]:
    """Returns the terms that reach the student's classifier (or replace it); without any its answers stay random."""
    return [t for t in terms if t.method.replaces_classifier or "logits" in t.method.student_roles]


def label_terms(specs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what is left of ``losses:`` without a teacher: the terms of labels, or else plain ``ce``.

    One alone has weight 1 in every epoch; several keep theirs.
    """
    terms = [term.spec() for term in build_terms(specs) if term.method.label_loss and not term.needs_teacher]
    return [{**terms[0], "weight": 1.0}] if len(terms) == 1 else terms or [{"name": "ce"}]


def build_term(spec: Mapping[str, Any], where: str = "losses") -> Term:
    """Returns one term; ``where`` names the place in the error."""
    rest = dict(spec)
    name = rest.pop("name", None)
    kind = find_method(name, where)
    label = str(rest.pop("label", _default_label(str(name))))
    if not label.isidentifier():
        raise ValueError(f"{where}.label must be a plain name, got {label!r}. Use letters, digits and _")
    weight = rest.pop("weight", 1.0)
    weight = _build(Weight, weight if isinstance(weight, Mapping) else {"value": weight}, f"{where}.weight")
    teacher = rest.pop("teacher", None)
    numbers = [f.name for f in dataclasses.fields(kind) if isinstance(f.default, float)]
    schedules = {
        key: _build(Points, value, f"{where}.{key}")
        for key, value in rest.items()
        if key in numbers and isinstance(value, Mapping)
    }
    if kept := [key for key in schedules if key in kind.unscheduled]:
        raise ValueError(
            f"{where} ({name}): {kept[0]} must be one number for the whole run, got a schedule. Give a number"
        )
    rest |= {key: points.at(0) for key, points in schedules.items()}
    method = _build(kind, rest, f"{where} ({name})")
    for key, schedule in schedules.items():
        for _, number in schedule.points:  # every number on the way must be one the method takes
            _build(kind, rest | {key: number}, f"{where} ({name})")
    return Term(label, str(name), method, weight, schedules, None if teacher is None else str(teacher))


def find_method(name: Any, where: str = "losses") -> type[Method]:
    """Returns the class of a method by its config name.

    Args:
        name: a key of ``METHODS``, or ``package.module:Class`` for a method of your own.
        where: the place in the error.

    Raises:
        ValueError: there is no such method, or the class is none.
    """
    if isinstance(name, str) and ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{where}.name must be a method that can be imported, got {name!r} ({error}). Check PYTHONPATH"
            ) from None
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise ValueError(
                f"{where}.name must name a subclass of Method, got {name!r}. See examples/own_method.py"
            )
        return found
    if not isinstance(name, str) or name not in METHODS:
        hint = did_you_mean(str(name), METHODS)
        raise ValueError(f"{where}.name must be a known method, got {name!r}. {hint}")
    return METHODS[name]


def _default_label(name: str) -> str:
    return name.rpartition(":")[2]


def _plain(value: Any) -> Any:
    """Returns tuples as lists, as YAML and JSON have them."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def _build(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    fields = [f.name for f in dataclasses.fields(kind)]
    for key in values:
        if key not in fields:
            extra = ["name", "weight", "label", "teacher"] if issubclass(kind, Method) else []
            raise ValueError(
                f"{where} must only have known keys, got {key!r}. {did_you_mean(str(key), fields + extra)}"
            )
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise ValueError(f"{where}{first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """Returns pydantic's first complaint as ``.key: what must hold, got what``."""
    problem = error.errors()[0]
    return said_of(problem, problem["loc"])


def said_of(problem: ErrorDetails, keys: Iterable[str | int]) -> str:
    """Returns one of pydantic's complaints as ``.key: what must hold, got what``."""
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] == "value_error":
        return f"{path}: {message}"
    return f"{path} {message}, got {problem['input']!r}. Correct the value"
