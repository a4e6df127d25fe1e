"""What a search may change: the numbers whose fields say where to look, and what the config adds or takes away."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from understudy.config import ArmConfig, Config, OptimizerConfig, RangeConfig, TuneConfig
from understudy.interface import Search
from understudy.methods.schedule import Weight
from understudy.methods.term import Term, build_terms
from understudy.words import did_you_mean, first_line

Choices: TypeAlias = "list[bool | int | float | str | None]"
RATE = "train.optimizer.lr"
CHANGEABLE = (
    "train.optimizer.",
    "train.schedule.",
    "train.batch_size",
    "train.ema",
    "train.clip_norm",
    "gradients.align",
    "data.augment.",
)
"""Keys of a config, beside those of its terms, that a search may change. Others would make scores incomparable."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that a search changes."""

    key: str
    """``TERM.FIELD``, or a key of the config."""
    path: str
    """The dotted place in the config."""
    where: RangeConfig | Choices
    shared: bool
    """Whether all methods have it."""

    def contains(self, value: Any) -> bool:
        """Returns whether a value may be tried."""
        if not isinstance(self.where, RangeConfig):
            return value in self.where
        if not _is_number(value) or not self.where.low <= value <= self.where.high:
            return False
        if self.where.step is None:
            return True
        steps = (value - self.where.low) / self.where.step
        return abs(steps - round(steps)) < 1e-8  # 0.1 + 0.2 is not 0.3

    def extremes(self) -> list[Any]:
        """Returns the values at the ends, all choices where it has no ends."""
        return [self.where.low, self.where.high] if isinstance(self.where, RangeConfig) else self.where

    def describe(self) -> str:
        """Returns the key and where it is looked for, in a few words."""
        if not isinstance(self.where, RangeConfig):
            return f"{self.key} {'|'.join(map(str, self.where))}"
        how = ", log" if self.where.log else ""
        return f"{self.key} {self.where.low:.3g}..{self.where.high:.3g}{how}"


@dataclass(frozen=True, slots=True)
class Contender:
    """A method in a search: its config as written, and what may be changed in it."""

    name: str
    config: Config
    settings: tuple[Setting, ...]

    def at(self, values: Mapping[str, Any]) -> Config:
        """Returns the config with some settings changed, by their keys.

        Raises:
            ValueError: a value is not one that the config takes.
        """
        paths = {setting.key: setting.path for setting in self.settings}
        return self.config.replaced(**{paths[key]: value for key, value in values.items()})

    def written(self) -> dict[str, Any]:
        """Returns what the config as written says of each setting, where a search could say it, too."""
        values = self.config.model_dump(mode="json")
        found = {setting.key: _value_at(values, setting.path) for setting in self.settings}
        return {s.key: found[s.key] for s in self.settings if s.contains(found[s.key])}


def contender(arm: ArmConfig, base: Config, plan: TuneConfig) -> Contender:
    """Returns a method with what may be changed in it.

    By default that is the learning rate, the weight of every term beside the label's, and every number of a method
    whose field has a :class:`Search`. A number on a schedule stays as it is, and so does one that is 0.

    Raises:
        ValueError: the plan names a key that the method has not, or a value that it does not take.
    """
    config = base.replaced(losses=arm.losses, gradients=arm.gradients.model_dump())
    terms = build_terms(config.losses)
    paths = _term_paths(terms)
    chosen: dict[str, RangeConfig | Choices | None] = {
        RATE: _around(OptimizerConfig, "lr", config.train.optimizer.lr)
    }
    for term in terms:
        chosen |= _searches(term, lone=len(terms) == 1)
    for key, where in sorted(plan.space.items(), key=lambda entry: "/" in entry[0]):  # a method's own last
        method, _, rest = key.rpartition("/")
        if method in ("", arm.name) and (rest in paths or _changeable(rest)):
            chosen[rest] = where
    settings = [
        Setting(key, paths.get(key, key), where, shared=key not in paths)
        for key, where in chosen.items()
        if where is not None
    ]
    found = Contender(arm.name, config, tuple(settings))
    for setting in settings:
        for value in setting.extremes():
            found.at({setting.key: value})
        where = setting.where
        if (
            isinstance(where, RangeConfig) and where.step is None
        ):  # then what lies between the ends is tried, too
            try:
                found.at({setting.key: where.low + 0.37 * (where.high - where.low)})
            except ValueError as error:
                raise ValueError(
                    f"tune.space.{setting.key} must have a step where only whole numbers are taken, got low and high "
                    f"alone ({first_line(error)}). Add step: 1"
                ) from None
    return found


def check_space(contenders: Iterable[Contender], plan: TuneConfig) -> None:
    """Refuses a key of ``tune.space`` that no method has.

    Raises:
        ValueError: with the nearest key.
    """
    known: list[str] = [RATE, *(key for key in CHANGEABLE if not key.endswith("."))]
    for one in contenders:
        keys = _term_paths(build_terms(one.config.losses))
        known += [*keys, *(f"{one.name}/{key}" for key in keys)]
    for key in plan.space:
        if key not in known and not _changeable(key):
            raise ValueError(
                f"tune.space must name what a search may change, got {key!r}. {did_you_mean(key, sorted(set(known)))}"
            )


def _changeable(key: str) -> bool:
    return any(key == known or (known.endswith(".") and key.startswith(known)) for known in CHANGEABLE)


def _term_paths(terms: Iterable[Term]) -> dict[str, str]:
    """Returns the place in a config of every ``TERM.FIELD``."""
    paths = {}
    for i, term in enumerate(terms):
        spec = term.spec()
        scheduled = isinstance(spec["weight"], dict)
        for name in spec:
            if name not in ("name", "label", "teacher"):
                deeper = ".value" if name == "weight" and scheduled else ""
                paths[f"{term.label}.{name}"] = f"losses.{i}.{name}{deeper}"
    return paths


def _searches(term: Term, lone: bool) -> dict[str, RangeConfig | None]:
    """Returns where a term's numbers are looked for; the label's weight is what the others are measured in."""
    found = {}
    if not lone and not term.method.label_loss:
        found[f"{term.label}.weight"] = _around(Weight, "value", term.weight.value)
    for name in term.spec().keys() - {"name", "label", "teacher", "weight"} - term.schedules.keys():
        found[f"{term.label}.{name}"] = _around(type(term.method), name, getattr(term.method, name))
    return dict(sorted(found.items()))


def _around(owner: type[Any], name: str, value: Any) -> RangeConfig | None:
    """Returns where a field's number is looked for, made to reach its present value; ``None`` if it is not."""
    hints = typing.get_args(typing.get_type_hints(owner, include_extras=True)[name])
    search = next((hint for hint in hints if isinstance(hint, Search)), None)
    if search is None or not value:
        return None
    scale = value if search.of_value else 1.0
    low, high = min(search.low * scale, value), max(search.high * scale, value)
    return RangeConfig(low=low, high=high, log=search.log)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _value_at(values: Any, path: str) -> Any:
    """Returns what stands at a dotted place in plain values, ``None`` if nothing does."""
    for key in path.split("."):
        if isinstance(values, list):
            values = values[int(key)]
        elif isinstance(values, dict):
            values = values.get(key)
    return values
