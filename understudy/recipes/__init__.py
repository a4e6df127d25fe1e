"""The papers' tables as data: budgets, pairs and methods, and the ordinary study that each row of a table is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from understudy.config import ArmConfig, Config, ConfigError, build_config
from understudy.interface import Align
from understudy.methods.presets import Preset, preset
from understudy.models import backbone_alone
from understudy.report.published import ALONE, TEACHER, Cell, cells, citation
from understudy.scaling import scaled
from understudy.words import did_you_mean

PREFIX = "recipe:"
"""What stands before the name of a recipe where a config file is expected."""
LIGHT = ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2")
"""Students that the papers train with a lower learning rate on CIFAR."""
_HARMLESS = (
    "data.root",
    "data.download",
    "data.max_gib",
    "data.resident",
    "data.workers",
    "output",
    "student.taps",
    "study.seeds",
    "teacher.table",
    "teacher.tables",
)
_HARMLESS_TRAIN = (
    "device",
    "threads",
    "compile",
    "eval_every",
    "eval_batch_size",
    "checkpoint_minutes",
    "trackers",
)
_VERSION = {"version": "IMAGENET1K_V1"}  # torchvision's weights that the papers had


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Selector(_Strict):
    """Which printed cell belongs to an arm."""

    method: str | None = None
    """By default the arm's name."""
    setting: dict[str, Any] = {}


class Arm(_Strict):
    """A method in a table: a preset with changes, or a list of terms."""

    name: str
    of: str | None = None
    """A preset, taken with the settings that are published for the pair."""
    losses: list[dict[str, Any]] | None = None
    align: Align | None = None
    change: dict[str, dict[str, Any]] = {}
    """Term -> settings in place of the preset's, or of a term that was put in the place of another."""
    drop: list[str] = []
    replace: dict[str, list[str]] = {}
    """Term -> terms in its place, each with its weight and no other of its settings."""
    not_for: list[str] = []
    """Teachers under which the table leaves the arm out."""
    published: Selector = Selector()
    unpublished: str | None = None
    """Why no printed value stands beside it."""

    @model_validator(mode="after")
    def _one_origin(self) -> Arm:
        if (self.of is None) == (self.losses is None):
            raise ValueError(
                f"an arm must have one of of: and losses:, got {self.name!r} with both or none. Keep one"
            )
        return self


class Variant(_Strict):
    """A row of its own: the same pair on another budget."""

    change: dict[str, Any]
    """Dotted keys of the config."""
    published: dict[str, Any] = {}
    """What the printed cells are told apart by."""


class Budget(_Strict):
    """What all runs of a table share."""

    survey: str | None
    """Where the numbers were read, in the survey of papers and released code."""
    data: dict[str, Any]
    images: int
    """In the training set."""
    train: dict[str, Any]
    lr_light: float | None = None
    pretrained_teacher: bool = False
    models: dict[str, str] = {}
    """Where a network of a pair is not of our zoo."""
    networks: dict[str, dict[str, Any]] = {}
    """What stands beside the model of a network of a pair (``pretrained``, ``options``)."""
    notes: list[str] = []


class Table(_Strict):
    """A table of a paper."""

    title: str
    budget: str
    pairs: list[tuple[str, str]] = Field(min_length=1)
    """Teacher and student."""
    arms: list[Arm]
    variants: dict[str, Variant] = {}
    data: dict[str, Any] = {}
    """On top of the budget's."""
    seeds: int = 3
    alone: Selector = Selector()
    """Of the student alone, where an ablation prints it."""
    published: list[str] | None = None
    """Tables that hold the printed values; by default the table itself."""
    needs: list[str] = []
    """Keys of the config without which the table cannot be run."""
    cannot: str | None = None
    """Why the table cannot be run."""
    left_out: dict[str, str] = {}
    """Printed cells that have no arm, and why."""
    notes: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _names_are_presets(cls, values: Any) -> Any:
        arms = [{"name": arm, "of": arm} if isinstance(arm, str) else arm for arm in values.get("arms", ())]
        return {**values, "arms": arms}


class Paper(_Strict):
    """One file: a paper's budgets and tables."""

    paper: str
    budgets: dict[str, Budget]
    tables: dict[str, Table]

    @model_validator(mode="after")
    def _budgets_are_there(self) -> Paper:
        for name, table in self.tables.items():
            if table.budget not in self.budgets:
                raise ValueError(f"{name}: {did_you_mean(table.budget, self.budgets)}")
        return self


@dataclass(frozen=True, slots=True)
class Printed:
    """A printed cell and its table."""

    table: str
    cell: Cell
    chosen: bool = False
    """Whether an arm of another name takes it on purpose, whatever is said against it."""

    @property
    def doubtful(self) -> bool:
        """Whether it is no target."""
        return self.cell.doubtful and not self.chosen


@dataclass(frozen=True, slots=True)
class Row:
    """One pair of a table, under one budget: a study."""

    name: str
    teacher: str
    student: str
    refusal: str | None
    """Why it cannot be run; then there is no config."""
    config: Config | None = None
    plain: Config | None = None
    """The same without a variant's changes to training, at the learning rate of the other students: the teacher's."""
    teacher_name: str = ""
    """What the teacher's weights are called: its network, and what sets its images apart from the budget's, if any."""
    printed: Mapping[str, tuple[Printed, ...]] = field(default_factory=dict)
    """Arm -> what the paper prints for it."""

    def job(self) -> Config:
        """Returns the study.

        Raises:
            ValueError: it cannot be run.
        """
        if self.config is None:
            raise ValueError(f"{self.name} cannot be run: {self.refusal}. See understudy list recipes")
        return self.config

    def teacher_job(self) -> Config | None:
        """Returns the job that trains the teacher, ``None`` for one that comes with weights."""
        config, plain = self.job(), self.plain
        assert config.teacher is not None
        assert plain is not None
        given = config.teacher.pretrained and not backbone_alone(config.teacher.model)
        if config.teacher.weights is not None or given:
            return None
        labels: dict[str, Any] = {"losses": [{"name": "ce"}], "gradients": {"align": "none"}}
        network = config.teacher.network().model_dump(mode="json")
        return plain.replaced(study=None, teacher=None, student=network, **labels)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A table of a paper, ready to be run."""

    name: str
    """Paper and table: ``dkd.table6``."""
    paper: str
    table: Table
    budget: Budget

    @property
    def title(self) -> str:
        """The table as it is cited, and what it is about."""
        return f"{citation(self.name)}: {self.table.title}"

    @property
    def printed_in(self) -> list[str]:
        """The tables that hold the printed values."""
        return [self.name] if self.table.published is None else self.table.published

    @property
    def notes(self) -> list[str]:
        """What must be known of the table and its budget; where a method has settings that nobody printed."""
        notes = [*self.budget.notes, *self.table.notes]
        for name in dict.fromkeys(arm.of for arm in self.table.arms if arm.of is not None):
            absent = {guide for arm in self.table.arms if arm.of == name for guide in arm.not_for}
            chosen = {p: self._preset(name, p) for p in self.table.pairs if p[0] not in absent}
            without = [" to ".join(pair) for pair, c in chosen.items() if c.of_pairs and c.pair is None]
            if without:
                notes.append(
                    f"{name} has its general settings for {', '.join(without)}: none are published for these."
                )
        return notes

    @property
    def row_names(self) -> list[str]:
        """The names of the rows, in the order of :meth:`rows`."""
        return [_row_name(pair, name) for pair in self.table.pairs for name in self.table.variants or [""]]

    def rows(
        self, share: float = 1.0, *, images: bool = True, overrides: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """Returns every row: its pairs, each with every variant.

        Args:
            share: of the budget that is kept, see :func:`understudy.scaling.scaled`.
            images: whether the training images shrink with the epochs.
            overrides: dotted keys on top. Names in ``study.methods`` are arms of the table, or else presets.

        Raises:
            ValueError: an override does not fit.
        """
        variants = self.table.variants or {"": Variant(change={})}
        return [
            self._row(pair, name, variant, share, images, overrides or {})
            for pair in self.table.pairs
            for name, variant in variants.items()
        ]

    def _row(
        self,
        pair: tuple[str, str],
        name: str,
        variant: Variant,
        share: float,
        images: bool,
        overrides: Mapping[str, Any],
    ) -> Row:
        row = Row(_row_name(pair, name), *pair, refusal=self.table.cannot)
        if row.refusal is not None:
            return row
        overrides = dict(overrides)
        arms = self._arms(pair, overrides.pop("study.methods", None))
        base = self._values(pair, arms)
        total = self.budget.images if images else None

        def job(changes: Mapping[str, Any]) -> Config:
            config = scaled(build_config(base, changes), share, total)
            return config.replaced(**overrides) if overrides else config

        rate = {} if self.budget.lr_light is None else {"train.optimizer.lr": self.budget.lr_light}
        light = rate if pair[1] in LIGHT else {}
        seen = {key: value for key, value in variant.change.items() if key.startswith("data.")}
        try:
            config, plain = job({**light, **variant.change}), job(seen)
        except ConfigError as error:
            missing = ".".join(map(str, error.keys))
            if missing not in self.table.needs:
                raise
            return replace(row, refusal=f"this version has no {missing}")
        return replace(
            row,
            config=config,
            plain=plain,
            teacher_name="-".join(
                [pair[0], *([self.name] if self.table.data else []), *([name] if seen else [])]
            ),
            printed=self._printed(pair, variant),
        )

    def _values(self, pair: tuple[str, str], arms: Sequence[ArmConfig]) -> dict[str, Any]:
        teacher, student = (self.budget.models.get(name, name) for name in pair)
        guide: dict[str, Any] = {"model": teacher, **self.budget.networks.get(pair[0], {})}
        if self.budget.pretrained_teacher:
            guide |= {"pretrained": True, "options": _VERSION if teacher.startswith("torchvision/") else {}}
        return {
            "data": {**self.budget.data, **self.table.data},
            "teacher": guide,
            "student": {"model": student, **self.budget.networks.get(pair[1], {})},
            "train": self.budget.train,
            "study": {
                "methods": [arm.model_dump(mode="json") for arm in arms],
                "seeds": list(range(self.table.seeds)),
            },
            "output": f"runs/{self.name}",
        }

    def _arms(self, pair: tuple[str, str], chosen: Any) -> list[ArmConfig]:
        """Returns the arms for a pair, or those that were chosen by name."""
        known = {arm.name: arm for arm in self.table.arms if pair[0] not in arm.not_for}
        entries = list(known) if chosen is None else chosen
        if not isinstance(entries, list):
            raise ValueError(f"study.methods must be a list, got {entries!r}. Write study.methods=[kd]")
        return [
            self._losses(known.get(entry) or Arm(name=entry, of=entry), pair)
            if isinstance(entry, str)
            else ArmConfig.model_validate(entry)
            for entry in entries
        ]

    def _preset(self, name: str, pair: tuple[str, str]) -> Preset:
        return preset(
            name, self.budget.data["name"], *(self.budget.models.get(model, model) for model in pair)
        )

    def _losses(self, arm: Arm, pair: tuple[str, str]) -> ArmConfig:
        """Returns the terms of an arm for a pair of networks."""
        align: Align | None = arm.align
        terms: Sequence[Mapping[str, Any]] = arm.losses or ()
        if arm.of is not None:
            chosen = self._preset(arm.of, pair)
            terms, align = chosen.losses, align or chosen.align
        kept = [term for term in terms if term["name"] not in arm.drop]
        replaced = [new for term in kept for new in _replaced(term, arm.replace)]
        losses = [{**term, **arm.change.get(term["name"], {})} for term in replaced]
        return ArmConfig.model_validate(
            {"name": arm.name, "losses": losses, "gradients": {"align": align or "none"}}
        )

    def _printed(self, pair: tuple[str, str], variant: Variant) -> dict[str, tuple[Printed, ...]]:
        """Returns the printed cells of every arm, of the student alone and of the teacher."""
        found = [Printed(table, cell) for table in self.printed_in for cell in cells(table, *pair)]
        wanted = {
            arm.name: ({arm.published.method or arm.name}, arm.published.setting) for arm in self.table.arms
        }
        wanted |= {ALONE: ({ALONE, "ce"}, self.table.alone.setting), TEACHER: ({TEACHER}, {})}
        silent = {arm.name for arm in self.table.arms if arm.unpublished is not None}
        return {
            name: tuple(
                replace(p, chosen=p.cell.method != name)
                for p in found
                if p.cell.method in methods
                and (p.cell.method in (ALONE, TEACHER) or _fits(p.cell, {**variant.published, **setting}))
            )
            for name, (methods, setting) in wanted.items()
            if name not in silent
        }


def recipe_names() -> list[str]:
    """Returns the names of all recipes, paper by paper."""
    return [f"{paper}.{table}" for paper, content in _papers().items() for table in content.tables]


def find_recipe(name: str) -> tuple[Recipe, str | None]:
    """Returns a recipe, and the name of the one row that was asked for.

    Args:
        name: ``dkd.table6``, with ``recipe:`` in front or not, with ``/ROW`` behind or not.

    Raises:
        ValueError: there is no such recipe, or it has no such row.
    """
    wanted, _, row = name.removeprefix(PREFIX).partition("/")
    known = recipe_names()
    if wanted not in known:
        near = did_you_mean(wanted, known)
        raise ValueError(
            f"a recipe must be a table of a paper, got {wanted!r}. {near}: understudy list recipes"
        )
    paper, _, table = wanted.partition(".")
    content = _papers()[paper]
    entry = content.tables[table]
    recipe = Recipe(wanted, content.paper, entry, content.budgets[entry.budget])
    names = recipe.row_names
    if row and row not in names:
        raise ValueError(
            f"a row of {wanted} must be one of its pairs, got {row!r}. {did_you_mean(row, names)}"
        )
    return recipe, row or None


def departures(recipe: Recipe, share: float, config: Config, overrides: Mapping[str, Any]) -> list[str]:
    """Returns in plain sentences what sets a job apart from the paper's: its scale, its data, other changes."""
    said = []
    if share < 1:
        kept = f"{config.train.epochs} of {recipe.budget.train['epochs']} epochs"
        if config.data.limit is not None:
            kept += f" and {config.data.limit:,} of {recipe.budget.images:,} training images"
        said.append(
            f"scaled by {share:g}: not the paper's budget ({kept}); published numbers are of the whole budget"
        )
    if config.data.name != recipe.budget.data["name"]:
        said.append(
            f"data differ from the paper's: {config.data.name} in place of {recipe.budget.data['name']}; "
            "published numbers are of other images"
        )
    changed = [f"{key}={value}" for key, value in overrides.items() if _matters(key)]
    if changed:
        said.append(f"changed from the recipe, so not the paper's: {', '.join(changed)}")
    return said


def images_trained(config: Config, images: int) -> int:
    """Returns how many training images a job goes through, all of its runs together, a teacher's run left out.

    Args:
        config: a study, or a single job.
        images: in the training set, where ``data.limit`` does not say less.
    """
    study = config.study
    runs = 1 if study is None else (len(study.methods) + 1) * len(study.seeds)
    return config.train.epochs * min(config.data.limit or images, images) * runs


def _row_name(pair: tuple[str, str], variant: str) -> str:
    return "-".join(filter(None, (*pair, variant)))


def _fits(cell: Cell, setting: Mapping[str, Any]) -> bool:
    return all(cell.setting.get(key) == value for key, value in setting.items())


def _replaced(term: Mapping[str, Any], others: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    if term["name"] not in others:
        return [dict(term)]
    weight = {"weight": term["weight"]} if "weight" in term else {}
    return [{"name": name, **weight} for name in others[term["name"]]]


def _matters(key: str) -> bool:
    """Returns whether an override may change numbers."""
    harmless = (*_HARMLESS, *(f"train.{name}" for name in _HARMLESS_TRAIN))
    return not any(key == name or key.startswith(f"{name}.") for name in harmless)


@functools.cache
def _papers() -> dict[str, Paper]:
    files = sorted(
        (file for file in resources.files("understudy.recipes").iterdir() if file.name.endswith(".yaml")),
        key=lambda file: file.name,
    )
    return {file.name.removesuffix(".yaml"): _read(file.name, file.read_text) for file in files}


def _read(name: str, text: Callable[..., str]) -> Paper:
    try:
        return Paper.model_validate(yaml.safe_load(text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"recipes/{name}: {place}: {first['msg']}, got {first['input']!r}") from None
