"""A trained student beside its teacher, as the analyses look at both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from understudy.analyses.contract import NotApplicableError
from understudy.build import Built, build, eval_batches
from understudy.config import Config, DataConfig, load_config
from understudy.data.images import ImageSet
from understudy.data.splits import labelled
from understudy.data.subsets import balanced
from understudy.engine.checkpoint import load_checkpoint
from understudy.engine.distiller import Distiller
from understudy.engine.evaluate import evaluating
from understudy.engine.loop import kept_checkpoints
from understudy.heads.transplant import Transplant
from understudy.interface import Network
from understudy.methods.term import Term
from understudy.models.translated import Translated, class_rows, classify
from understudy.taps import Taps

Part = Literal["train", "test"]

MOST_TRAIN = 10_000
"""So many training images are looked at, as many of every class; of the test images all."""


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer and what it was given."""

    feature: Tensor
    """``(N, D)``."""
    weight: Tensor
    """``(C, D)``."""
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What both networks show of a whole set, in eval mode, on the CPU; un-augmented images."""

    target: Tensor
    student: Tensor
    """``(N, C)`` logits of the deployed model."""
    heads: Mapping[str, Head]
    """``student`` (of the deployed model), ``teacher``, and the auxiliary heads by their names."""
    auxiliary: Mapping[str, Tensor]
    """Logits of the second heads of dual-head terms, by their names."""
    teacher: Tensor | None
    own: Tensor
    """``(N, C)`` logits of the student's own head; those of ``student`` unless a term replaces it."""
    crossed: Tensor | None
    """``(N, C)`` logits of the teacher's classifier on the student's feature, where the two fit."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Which setting of a run is varied, and how the students are trained."""

    setting: str | None = None
    """A dotted key of the config, e.g. ``losses.1.temperature``."""
    values: tuple[Any, ...] = ()
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What some analyses must be told."""

    transfer: DataConfig | None = None
    """The images of the linear probe."""
    sweep: Sweep = Sweep()
    epochs: int = 5
    """Of the students that ``difficulty_training`` trains."""
    out: Path = Path("analysis")


@dataclass
class Pair:
    """A finished run with everything it was built from, its last weights loaded."""

    folder: Path
    config: Config
    built: Built
    device: torch.device
    options: Options
    _seen: dict[Part, Seen] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, device: torch.device, config: Config, options: Options) -> Pair:
        """Returns the pair of a run folder.

        Raises:
            ValueError: the run is not finished or has lost its checkpoint.
        """
        last = folder / "checkpoints" / "last.pt"
        if not (folder / "student.safetensors").exists() or not last.exists():
            raise ValueError(
                f"analyze must be given a finished run with checkpoints/last.pt, got {folder}. "
                "Resume it, or analyse one whose checkpoints are kept"
            )
        state = load_checkpoint(last)
        built = build(config, device)
        pair = cls(folder, built.config, built, device, options)
        pair._take(state["model"] | (state["average"] or {}))
        return pair

    @property
    def distiller(self) -> Distiller:
        """Student, heads and teacher."""
        return self.built.distiller

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of every class."""
        return self.built.data.classes

    @property
    def teacher(self) -> Network | None:
        """The teacher and its roles; ``None`` where there is none, or several."""
        teachers = list(self.distiller.guides.networks.values())
        return teachers[0] if len(teachers) == 1 else None

    @property
    def teacher_merges(self) -> bool:
        """Whether a class of ours is several of the teacher's, so that its classifier has no row for it."""
        module = None if self.teacher is None else self.teacher.module
        return isinstance(module, Translated) and module.merges

    @property
    def example(self) -> Tensor:
        """One black image, as a batch."""
        data = self.built.data
        return torch.zeros(1, data.channels, *data.image_size, device=self.device)

    def images(self, part: Part) -> ImageSet:
        """Returns the training images that have a label (at most :data:`MOST_TRAIN`), or the test images.

        Raises:
            NotApplicableError: there are none.
        """
        data = self.built.data
        if part == "train":
            train = labelled(data.train)
            if len(train) == 0:
                raise NotApplicableError("it needs labels, got training images without any. Label some")
            return train if len(train) <= MOST_TRAIN else train.subset(balanced(train.targets, MOST_TRAIN, 0))
        if data.test is None:
            raise NotApplicableError("it needs test images, got data without any. Set data.test")
        return data.test

    def see(self, part: Part) -> Seen:
        """Returns what both networks show of a part of the data; the passes are made once for all analyses."""
        if part not in self._seen:
            self._seen[part] = self.look(self.images(part))
        return self._seen[part]

    @torch.no_grad()
    def look(self, images: ImageSet) -> Seen:
        """Returns what both networks show of some images."""
        distiller, network, teacher = self.distiller, self.distiller.network, self.teacher
        roles = [role for role in ("logits", "feature", "stage_last") if role in network.shapes]
        theirs = [role for role in ("logits", "feature") if teacher is not None and role in teacher.shapes]
        rows: dict[str, list[Tensor]] = {}
        with evaluating(distiller), Taps(network, roles) as taps:
            guide = Taps(teacher, theirs) if teacher is not None else None
            for batch in eval_batches(images, self.built, self.device):
                shown = taps.collect(network.module(batch.images))
                found = {**self._heads_on(shown), "own": shown["logits"], "target": batch.target}
                if guide is not None and teacher is not None:
                    answer = guide.collect(teacher.module(batch.images))
                    found |= {f"teacher/{role}": tensor for role, tensor in answer.items()}
                elif distiller.guides:
                    found["teacher/logits"] = distiller.guides.predict(batch.images)
                for name, tensor in found.items():
                    tensor = tensor.float() if tensor.is_floating_point() else tensor
                    rows.setdefault(name, []).append(tensor.cpu())
            if guide is not None:
                guide.close()
        return self._as_seen({name: torch.cat(parts) for name, parts in rows.items()})

    @property
    def moments(self) -> tuple[tuple[int, Path], ...]:
        """Epoch and file of every kept checkpoint before the last epoch (``train.keep_checkpoints``)."""
        kept = kept_checkpoints(self.folder)
        return tuple((epoch, path) for epoch, path in kept if epoch < self.config.train.epochs)

    @contextmanager
    def at(self, path: Path) -> Iterator[None]:
        """Lends the distiller the weights of a kept checkpoint."""
        state = {name: tensor.clone() for name, tensor in self.distiller.state_dict().items()}
        seen = self._seen
        self._take(load_checkpoint(path)["model"])
        self._seen = {}
        try:
            yield
        finally:
            self._take(state)
            self._seen = seen

    def over_training(self) -> Iterator[int]:
        """Yields the epoch of every kept checkpoint and of the end, each with its weights loaded."""
        for epoch, path in self.moments:
            with self.at(path):
                yield epoch
        yield self.config.train.epochs

    def number(self, term: Term, key: str) -> float | None:
        """Returns a setting of a term's method in the last epoch, ``None`` if it has none of that name."""
        value = getattr(term.method_at(self.config.train.epochs - 1), key, None)
        return None if value is None else float(value)

    def auxiliary(self) -> dict[str, nn.Module]:
        """Returns the second heads on the student's feature: ``auxiliary``, or of several ``auxiliary of LABEL``."""
        found = {
            term.label: heads["aux"]
            for term in self.distiller.terms
            if isinstance(heads := self.distiller.heads[term.label], nn.ModuleDict) and "aux" in heads
        }
        if len(found) == 1:
            return {"auxiliary": next(iter(found.values()))}
        return {f"auxiliary of {label}": head for label, head in found.items()}

    def transplant(self) -> Transplant | None:
        """Returns the teacher's classifier on the student's connected map, where a term has one."""
        replacing = self.distiller.replacing
        labels = self.distiller.heads if replacing is None else [replacing.label]  # which is what is deployed
        for heads in (self.distiller.heads[label] for label in labels):
            if isinstance(heads, nn.ModuleDict) and "transplant" in heads:
                found = heads["transplant"]
                return found if isinstance(found, Transplant) else None
        return None

    def linear(self) -> nn.Linear | None:
        """Returns the layer that makes the deployed logits, ``None`` where none can be seen."""
        transplant = self.transplant()
        if self.distiller.replacing is not None:
            return transplant.classifier if transplant is not None else None
        return self.distiller.network.classifier if self.distiller.network.head is not None else None

    def _take(self, state: dict[str, Tensor]) -> None:
        self.distiller.load_state_dict(state)

    def _heads_on(self, shown: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns what the heads beside the student's own make of its outputs."""
        found = {}
        if "feature" in shown:
            found["feature"] = shown["feature"]
            for name, head in self.auxiliary().items():
                found[f"aux/{name}"] = head(shown["feature"])
                found[f"aux_feature/{name}"] = before_last(head)(shown["feature"])
        if (transplant := self.transplant()) is not None and "stage_last" in shown:
            connected = transplant.connected(shown["stage_last"])
            found["crossed"], found["crossed_feature"] = (
                transplant.classify(connected),
                connected.mean((2, 3)),
            )
        elif (
            (teacher := self.teacher) is not None
            and teacher.head is not None
            and "feature" in shown
            and teacher.classifier.in_features == shown["feature"].shape[1]
        ):
            found["crossed"] = classify(teacher, shown["feature"])
        return found

    def _as_seen(self, found: dict[str, Tensor]) -> Seen:
        replaced = self.distiller.replacing is not None
        heads: dict[str, Head] = {}
        linear = self.linear()
        feature = found.get("crossed_feature" if replaced else "feature")
        if linear is not None and feature is not None:
            heads["student"] = _head(feature, linear.weight, linear.bias)
        for name, module in self.auxiliary().items():
            layer = module[-1] if isinstance(module, nn.Sequential) else module
            if isinstance(layer, nn.Linear):
                heads[name] = _head(found[f"aux_feature/{name}"], layer.weight, layer.bias)
        if self.teacher is not None and "teacher/feature" in found and not self.teacher_merges:
            heads["teacher"] = _head(found["teacher/feature"], *class_rows(self.teacher))
        return Seen(
            target=found["target"],
            student=found["crossed"] if replaced else found["own"],
            heads=heads,
            auxiliary={name: found[f"aux/{name}"] for name in self.auxiliary() if f"aux/{name}" in found},
            teacher=found.get("teacher/logits"),
            own=found["own"],
            crossed=found.get("crossed"),
        )


def before_last(head: nn.Module) -> nn.Module:
    """Returns the part of a head in front of its last layer: nothing, for one of a single layer."""
    return head[:-1] if isinstance(head, nn.Sequential) else nn.Identity()


def config_of(folder: Path, overrides: Mapping[str, Any]) -> Config:
    """Returns the config of a run folder, on whatever device there is unless ``train.device`` says."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"analyze must be given a run or study folder, got {folder} without a config.yaml. Check the path"
        )
    changes = {"output": str(folder), "train.device": "auto", **overrides}
    return load_config(folder / "config.yaml", changes)


def _head(feature: Tensor, weight: Tensor, bias: Tensor | None) -> Head:
    return Head(feature, weight.detach().cpu().float(), None if bias is None else bias.detach().cpu().float())
