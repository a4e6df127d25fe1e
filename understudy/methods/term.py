"""Terms: what stands in a config's `losses:`, a method with a weight that may ramp, stop and come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from understudy.methods import METHODS
from understudy.methods.method import Method
from understudy.nearest import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight by epoch. All epochs in the fields are 1-based, as in files and text."""

    value: float = 1.0
    warmup_epochs: int = 0
    """The weight grows linearly over this many epochs."""
    warmup_start: Literal[0, 1] = 1
    """Whether the ramp's epochs count from 1 (DKD, ReviewKD) or from 0 (KD++: the first epoch has weight 0)."""
    from_epoch: int = 1
    """First epoch of the term; its ramp counts from here."""
    until_epoch: int | None = None
    """Last epoch of the term."""
    restart_epoch: int | None = None
    """Epoch after ``until_epoch`` from which the term is back, at full weight."""

    def __post_init__(self) -> None:
        if self.until_epoch is not None and self.until_epoch < self.from_epoch:
            raise ValueError(
                f"a weight must not end before it starts, got from_epoch {self.from_epoch} and until_epoch "
                f"{self.until_epoch}. Make until_epoch the larger"
            )
        if self.restart_epoch is not None and (
            self.until_epoch is None or self.restart_epoch <= self.until_epoch
        ):
            raise ValueError(
                f"restart_epoch must come after until_epoch, got {self.restart_epoch} and {self.until_epoch}. "
                "Give both, the restart the larger"
            )
        if self.warmup_epochs < 0 or self.from_epoch < 1:
            raise ValueError(
                f"warmup_epochs must be at least 0 and from_epoch at least 1, got {self.warmup_epochs} and "
                f"{self.from_epoch}. Epochs in a config count from 1"
            )

    def at(self, epoch: int) -> float:
        """Returns the weight in an epoch (0-based, as in code)."""
        number = epoch + 1
        if self.restart_epoch is not None and number >= self.restart_epoch:
            return self.value
        if number < self.from_epoch or (self.until_epoch is not None and number > self.until_epoch):
            return 0.0
        if self.warmup_epochs == 0:
            return self.value
        return self.value * min(1.0, (number - self.from_epoch + self.warmup_start) / self.warmup_epochs)


@dataclass(frozen=True, slots=True)
class Term:
    """A named, weighted loss."""

    label: str
    method: Method
    weight: Weight

    @property
    def name(self) -> str:
        """The method's config name."""
        return next(name for name, method in METHODS.items() if method is type(self.method))

    @property
    def needs_teacher(self) -> bool:
        """Whether the term reads anything of the teacher."""
        return bool(self.method.teacher_taps)

    def describe(self) -> str:
        """Returns the weight and the settings in a few words."""
        settings = [f"weight {self.weight.value:g}"]
        settings += [
            f"{f.name} {value}"
            for f in dataclasses.fields(Weight)
            if f.name != "value" and (value := getattr(self.weight, f.name)) != f.default
        ]
        settings += [f"{key} {value}" for key, value in dataclasses.asdict(self.method).items()]
        return ", ".join(settings)

    def spec(self) -> dict[str, Any]:
        """Returns the config entry that rebuilds the term, every default written out."""
        weight = dataclasses.asdict(self.weight)
        plain = all(weight[f.name] == f.default for f in dataclasses.fields(Weight) if f.name != "value")
        entry: dict[str, Any] = {"name": self.name, "weight": self.weight.value if plain else weight}
        if self.label != self.name:
            entry["label"] = self.label
        return entry | dataclasses.asdict(self.method)


def build_terms(specs: Iterable[Mapping[str, Any]]) -> tuple[Term, ...]:
    """Returns the terms of a config's ``losses:``.

    Args:
        specs: mappings with ``name``, optional ``weight`` (a number or the fields of :class:`Weight`), optional
            ``label`` (the term's name in logs; needed only where a method stands twice), and the method's own
            fields.

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


def build_term(spec: Mapping[str, Any], where: str = "losses") -> Term:
    """Returns one term; ``where`` names the place in the error."""
    rest = dict(spec)
    name = rest.pop("name", None)
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(
            f"{where}.name must be a known method, got {name!r}. {did_you_mean(str(name), METHODS)}"
        )
    label = str(rest.pop("label", name))
    if not label.isidentifier():
        raise ValueError(f"{where}.label must be a plain name, got {label!r}. Use letters, digits and _")
    given = rest.pop("weight", 1.0)
    weight = _build(Weight, given if isinstance(given, Mapping) else {"value": given}, f"{where}.weight")
    return Term(label, _build(METHODS[name], rest, f"{where} ({name})"), weight)


def _build(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    fields = [f.name for f in dataclasses.fields(kind)]
    for key in values:
        if key not in fields:
            extra = ["name", "weight", "label"] if issubclass(kind, Method) else []
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
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] == "value_error":
        return f"{path}: {message}"
    return f"{path} {message}, got {problem['input']!r}. Correct the value"
