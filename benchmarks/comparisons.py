"""What is measured: one entry a claim, with its goal. `RESULTS.md` is this table with numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["time", "rate", "share", "memory"]
Track = Literal["same numerics", "best default", "either"]

EVALUATED = 10_000  # images of a test set
TRAINED = 5 * 50_000  # images trained on between two evaluations with `eval_every: 5`


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm and how its config differs from DHKD as released (``arms/synthetic.py``)."""

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)
    warm: bool = False
    """Whether the table holds all answers (the first steps of an epoch again and again), or none (the first epoch)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One claim."""

    says: str
    """In words, a over b."""
    a: Arm
    b: Arm
    goal: tuple[Literal["<=", ">="], float] | None
    track: Track = "same numerics"
    kind: Kind = "time"
    """``time``: seconds an image of a / of b. ``rate``: images a second of a (b is the same arm). ``share``: evaluation
    (a) in a run that trains as b. ``memory``: peak memory of a / of b, in fresh processes."""
    bound: str | None = None
    """The comparison whose ratio is the most that this one's could be."""


def _library(warm: bool = False, **changes: Any) -> Arm:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return Arm("library", {"teacher.precision": "fp32", **dotted}, warm)


_CE: dict[str, Any] = {"losses": [{"name": "ce"}], "teacher": None, "gradients__align": "none"}
_KD: dict[str, Any] = {"losses": [{"name": "ce"}, {"name": "kd"}], "gradients__align": "none"}
_FAST: dict[str, Any] = {"train__precision": "bf16", "teacher__precision": "auto"}
"""The best default: the student under bf16 autocast, the teacher in what its test at start-up finds best."""

_RELEASED, _EAGER = Arm("released"), Arm("eager")
_BOUND = Arm("convolutions")
"""What a step cannot do without: the ratio to it is the most that any loop on the same kernels could win."""
_BOUND_FAST = Arm("convolutions", {"train.precision": "bf16"})
_EAGER_FAST = Arm("eager", {"train.precision": "bf16"})
_ONE_CORE: dict[str, Any] = {"train.threads": 1}

COMPARISONS: dict[str, Comparison] = {
    "kd-ce": Comparison(
        "KD, warm / cross-entropy alone", _library(warm=True, **_KD), _library(**_CE), ("<=", 1.03)
    ),
    "dhkd-kd": Comparison(
        "DHKD without alignment, warm / KD, warm",
        _library(warm=True, gradients__align="none"),
        _library(warm=True, **_KD),
        ("<=", 1.02),
    ),
    "align-exact": Comparison(
        "DHKD, exact alignment (backbone), warm / none, warm",
        _library(warm=True, gradients__align="backbone"),
        _library(warm=True, gradients__align="none"),
        ("<=", 1.80),
    ),
    "align-twin": Comparison(
        "DHKD, exact alignment by one vectorised pass / by two passes, warm",
        _library(warm=True, gradients__align="backbone", gradients__twin=True),
        _library(warm=True, gradients__align="backbone"),
        None,
    ),
    "align-feature": Comparison(
        "DHKD, feature alignment, warm / none, warm",
        _library(warm=True, gradients__align="feature"),
        _library(warm=True, gradients__align="none"),
        ("<=", 1.03),
    ),
    "released-cold": Comparison(
        "released loop / library, cold", _RELEASED, _library(), (">=", 1.5), bound="bound-cold"
    ),
    "released-warm": Comparison(
        "released loop / library, warm", _RELEASED, _library(warm=True), (">=", 3.0), bound="bound-warm"
    ),
    "bound-cold": Comparison(
        "released loop / the convolutions of the library's step alone, cold", _RELEASED, _BOUND, None
    ),
    "bound-warm": Comparison(
        "released loop / the convolutions of the library's step alone, warm",
        _RELEASED,
        replace(_BOUND, warm=True),
        None,
    ),
    "eager-cold": Comparison("eager loop / library, cold", _EAGER, _library(), (">=", 1.0)),
    "eager-warm": Comparison("eager loop / library, warm", _EAGER, _library(warm=True), (">=", 1.6)),
    "default-released-cold": Comparison(
        "released loop / library, cold",
        _RELEASED,
        _library(**_FAST),
        (">=", 3.0),
        "best default",
        bound="bound-default-cold",
    ),
    "default-released-warm": Comparison(
        "released loop / library, warm",
        _RELEASED,
        _library(warm=True, **_FAST),
        (">=", 5.0),
        "best default",
        bound="bound-default-warm",
    ),
    "default-released-feature": Comparison(
        "released loop / library, warm, feature alignment",
        _RELEASED,
        _library(warm=True, gradients__align="feature", **_FAST),
        (">=", 8.0),
        "best default",
        bound="bound-default-feature",
    ),
    "bound-default-cold": Comparison(
        "released loop / the convolutions of the library's step alone, in bf16, cold",
        _RELEASED,
        _BOUND_FAST,
        None,
        "best default",
    ),
    "bound-default-warm": Comparison(
        "released loop / the convolutions of the library's step alone, in bf16, warm",
        _RELEASED,
        replace(_BOUND_FAST, warm=True),
        None,
        "best default",
    ),
    "bound-default-feature": Comparison(
        "released loop / the convolutions of a step of one backward pass alone, in bf16, warm",
        _RELEASED,
        Arm("convolutions", {"train.precision": "bf16", "gradients.align": "none"}, warm=True),
        None,
        "best default",
    ),
    "default-eager-cold": Comparison(
        "eager loop in bf16 / library, cold", _EAGER_FAST, _library(**_FAST), None, "best default"
    ),
    "default-eager-warm": Comparison(
        "eager loop in bf16 / library, warm", _EAGER_FAST, _library(warm=True, **_FAST), None, "best default"
    ),
    "augmentation": Comparison(
        "augmented images a second on one core",
        Arm("augment", _ONE_CORE),
        Arm("augment", _ONE_CORE),
        (">=", 100_000),
        "either",
        "rate",
    ),
    "evaluation": Comparison(
        "evaluation's share of a cross-entropy run, eval_every: 5",
        Arm("evaluate", {"losses": [{"name": "ce"}], "teacher": None, "gradients.align": "none"}),
        _library(**_CE),
        ("<=", 0.02),
        "either",
        "share",
    ),
    "memory": Comparison(
        "peak memory of a DHKD run, cold / of a cross-entropy run",
        _library(),
        _library(**_CE),
        None,
        "either",
        "memory",
    ),
}
