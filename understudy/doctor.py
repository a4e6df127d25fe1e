"""One batch through everything before the first epoch: what is wrong, what is slow, what it will take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from operator import itemgetter
from typing import Any, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from understudy.build import Built, build, eval_batches, process, train_loader
from understudy.clock import clock
from understudy.config import Config, load_config
from understudy.data import BoxSet, MaskSet, MultiLabelSet, Splits, TrainLoader
from understudy.data.normalisation import PUBLISHED
from understudy.data.splits import kinds
from understudy.data.undecoded import Undecoded
from understudy.guidance import asked_in_step
from understudy.interface import IGNORE, Batch
from understudy.metrics import average_precision, detection_scores
from understudy.models import Translated
from understudy.models.translated import untranslated
from understudy.teacher.assemble import can_answer_ahead
from understudy.teacher.auto import expected_hits
from understudy.teacher.layout import DTYPES
from understudy.widest import widen

Status = Literal["ok", "warning", "error"]

_LOOKED_AT = 500  # images the teacher is asked about
_MASKS = 24  # of images with masks or boxes
_FINDS = 40  # AP50, in percent, from which a detector is worth learning from
_SAVED = 8  # images whose activations are weighed
_TIMED, _SECONDS = 3, 2.0  # steps at least, seconds at most
_NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "a half, a half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none, 0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "none, 0 to 255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    **{f"{name}'s": statistics for name, statistics in PUBLISHED.items()},
}
"""What teachers are usually trained with."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    status: Status
    text: str
    figures: dict[str, Any] = field(default_factory=dict)


def doctor(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config, *, quiet: bool = False, **overrides: Any
) -> dict[str, Any]:
    """Examines a config on one batch; nothing is trained or written.

    What would end a run is a finding here and is not raised.

    Args:
        source: a YAML file, a mapping, or a config.
        quiet: print nothing.
        overrides: dotted keys, ``**{"train.batch_size": 128}``.

    Returns:
        ``status`` (``ok``, ``warning`` or ``error``: the worst found) and ``findings``, each with ``check``,
        ``status``, ``text`` and ``figures`` (accuracies from 0 to 100, memory in bytes, times in seconds).
    """
    findings = list(_examine(source, overrides))
    worst = max(findings, key=lambda finding: ("ok", "warning", "error").index(finding.status)).status
    result = {
        "status": worst,
        "findings": [
            {"check": f.check, "status": f.status, "text": f.text, "figures": f.figures} for f in findings
        ],
    }
    if not quiet:
        print(describe(result))
    return result


def describe(result: Mapping[str, Any]) -> str:
    """Returns a result of :func:`doctor` as one screen of text."""
    lines = [f"{f['status']:<8}{f['check']:<9}{f['text']}" for f in result["findings"]]
    ends = {
        "ok": "nothing to mend",
        "warning": "it will run; look at the warnings first",
        "error": "mend the errors first",
    }
    return "\n".join([*lines, "", ends[result["status"]]])


def _examine(source: Any, overrides: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields what is found, in the order of a run; a fault ends the examination where it would end the run."""
    try:
        config = load_config(source, overrides)
        with process(config) as device:
            built = build(config, device)
            yield _data(built)
            yield from _networks(built)
            faults = list(_teachers(built, device))
            yield from faults
            if any(fault.status == "error" for fault in faults):
                return
            memory = _memory(built, device)
            yield memory
            if memory.status == "error":
                return
            yield from _steps(built, device)
            yield from (Finding("note", "ok", note) for note in built.notes)
    except (ValueError, OSError) as error:
        yield Finding("config", "error", " ".join(str(error).split()))


def _data(built: Built) -> Finding:
    if isinstance(built.data.train, MaskSet):
        return _masks(built.data, built.data.train)
    if isinstance(built.data.train, MultiLabelSet):
        return _labels(built.data, built.data.train)
    if isinstance(built.data.train, BoxSet):
        return _boxes(built.data, built.data.train)
    data, height, width = built.data, *built.data.image_size
    text = f"{len(data.train):,} training images {height}×{width}, {data.num_classes} classes"
    labelled = data.train.targets[data.train.targets >= 0]
    counts = labelled.bincount(minlength=data.num_classes)
    figures = {"images": len(data.train), "classes": data.num_classes, "labelled": len(labelled)}
    if len(labelled) < len(data.train):
        text += f"; {len(data.train) - len(labelled):,} without label"
    uneven = None
    if int(counts.max()) >= 10 * int(counts.min()):
        uneven = f"classes of {int(counts.min()):,} to {int(counts.max()):,} images: very uneven"
    return _weighed(data, counts, text, figures, warning=uneven)


def _labels(data: Splits, train: MultiLabelSet) -> Finding:
    """Looks at how many images each class is in, and how many are not known."""
    height, width = train.image_size
    there, unknown = (train.targets == 1).sum(dim=0), float((train.targets == -1).double().mean())
    text = (
        f"{len(train):,} training images {height}×{width}, {train.num_classes} classes, "
        f"{float(there.sum()) / len(train):.2f} an image"
    )
    text += f"; {unknown:.1%} of the labels not known" * (unknown > 0)
    figures = {"images": len(train), "classes": train.num_classes, "unknown": unknown}
    return _weighed(data, there, text, figures, rarest=f"is in {int(there.min()):,}")


def _boxes(data: Splits, train: BoxSet) -> Finding:
    """Looks at how many objects each class has, and how many images have none."""
    height, width = train.image_size
    counts = train.boxes_by_class
    empty = int((train.targets[..., 0] <= 0).all(dim=1).sum())
    text = f"{len(train):,} training images {height}×{width} with {int(counts.sum()):,} boxes, "
    text += f"{train.num_classes} classes"
    text += f"; {empty:,} images without any" if empty else ""
    figures = {
        "images": len(train),
        "classes": train.num_classes,
        "boxes": int(counts.sum()),
        "without": empty,
    }
    return _weighed(data, counts, text, figures, rarest=f"has {int(counts.min()):,}", look_at="annotations")


def _masks(data: Splits, train: MaskSet) -> Finding:
    """Looks at how many pixels each class has, and how many have none."""
    height, width = train.image_size
    counts = train.pixels_by_class
    labelled, pixels = int(counts.sum()), len(train) * height * width
    text = f"{len(train):,} training images {height}×{width} with masks, {train.num_classes} classes"
    text += f"; {1 - labelled / pixels:.1%} of the pixels ignored"
    figures = {
        "images": len(train),
        "classes": train.num_classes,
        "labelled_pixels": labelled,
        "pixels": pixels,
    }
    empty = int((train.targets.flatten(1) == IGNORE).all(dim=1).sum())
    warning = f"{empty:,} images without any label teach nothing" if empty else None
    rarest = f"has {int(counts.min()) / max(labelled, 1):.2%}"
    return _weighed(data, counts, text, figures, rarest=rarest, look_at="masks", warning=warning)


def _weighed(
    data: Splits,
    counts: Tensor,
    text: str,
    figures: dict[str, Any],
    *,
    rarest: str = "",
    look_at: str = "",
    warning: str | None = None,
) -> Finding:
    """Returns what is found of training images, given how much of each class there is.

    Args:
        data: all images.
        counts: of each class, ``(C,)``.
        text: what they are.
        figures: likewise.
        rarest: what is said of the class of which there is least.
        look_at: where to look if there is nothing of any class, which is an error then.
        warning: what is wrong besides.
    """
    figures = figures | {"smallest_class": int(counts.min()), "largest_class": int(counts.max())}
    least = data.classes[int(counts.argmin())]
    if look_at and int(counts.sum()) == 0:
        return Finding("data", "error", f"{text}: there is nothing to learn. Check the {look_at}", figures)
    if int(counts.min()) == 0:
        return Finding("data", "warning", f"{text}; none of class {least!r}: it cannot be learned", figures)
    if warning is None and data.test is None and data.val is None:
        warning = "nothing to measure on: set data.test or data.val"
    if warning is not None:
        return Finding("data", "warning", f"{text}; {warning}", figures)
    return Finding("data", "ok", text + f"; the rarest, {least}, {rarest}" * bool(rarest), figures)


def _networks(built: Built) -> Iterator[Finding]:
    """Yields what was found in each network."""
    setup = built.distiller.setup
    guides = built.distiller.guides.teachers
    for name, network in (("student", setup.student), *((n, t.network) for n, t in guides.items())):
        stages = network.num_stages
        text = f"{type(untranslated(network.module)).__name__}: head {network.head or 'not found'}, "
        text += f"feature {network.shapes.get('feature', ('not found',))[0]}, {stages} stages"
        if stages:
            text += " of " + ", ".join(
                "×".join(map(str, network.shapes[f"stage_{k}"])) for k in range(1, stages + 1)
            )
        shapes = {role: list(shape) for role, shape in network.shapes.items()}
        yield Finding(
            "taps", "ok", f"{name} {text}", {"network": name, "head": network.head, "shapes": shapes}
        )


def _teachers(built: Built, device: torch.device) -> Iterator[Finding]:
    """Yields what each teacher knows of these images."""
    batch, task = _labelled(built, device), built.distiller.task
    for name, teacher in built.distiller.guides.teachers.items():
        if task.name == "detection":
            yield _precision_of(name, teacher.module, batch, built)
            continue
        logits = _logits(teacher.module, batch)
        if not torch.isfinite(logits).all():
            share = 100 * widen((~torch.isfinite(logits)).flatten(1).any(dim=1)).mean().item()
            yield Finding(
                name,
                "error",
                f"its logits are NaN or infinite for {share:.0f}% of images. Check its weights",
                {},
            )
        elif task.name == "segmentation":
            yield _miou(name, logits, batch, built)
        elif task.name == "multilabel":
            yield _map(name, logits, batch)
        elif len(batch.target):
            yield _accuracy(name, teacher.module, logits, batch, built)


def _accuracy(name: str, module: nn.Module, logits: Tensor, batch: Batch, built: Built) -> Finding:
    classes, count, key = built.data.num_classes, len(batch.target), built.config.guide_key(name)
    right = 100 * widen(logits.argmax(dim=1) == batch.target).mean().item()
    chance = 100 / classes
    share = min(max(right, chance), 100 - chance) / 100
    noise = 300 * (share * (1 - share) / count) ** 0.5  # three standard deviations, in percent
    figures: dict[str, Any] = {"accuracy": right, "chance": chance, "images": count}
    text = f"{right:.1f}% of {count} training images right (chance {chance:.1f}%)"
    if right > chance + noise and right + noise >= 100:  # nothing could be better by more than chance
        return Finding(name, "ok", text, figures)
    reordered = _best_order(logits, batch.target, classes) if count >= 10 * classes else 0.0
    better = _normalisations(module, batch, built)
    if reordered > max(2 * chance, right, better[1]) + noise:
        figures["reordered"] = reordered
        text += f": its classes are in another order ({reordered:.1f}% if matched). Set {key}.classes"
    elif better[1] > right + noise:
        what, value, mean, std = better
        figures["normalisation"] = {"name": what, "accuracy": value, "mean": list(mean), "std": list(std)}
        found = {"mean": mean, "std": std}
        given = (f"{key}.{part}=[{','.join(f'{n:g}' for n in row)}]" for part, row in found.items())
        text += f": with normalisation {what!r} {value:.1f}%. Set {' '.join(given)}"
    elif right > chance + noise:
        return Finding(name, "ok", text, figures)
    else:
        text += ": it knows nothing of these classes. Check its weights, its classes and its normalisation"
    return Finding(name, "warning", text, figures)


def _miou(name: str, logits: Tensor, batch: Batch, built: Built) -> Finding:
    """Compares a teacher of pixels with one that gives the most frequent class to all of them."""
    tally = built.distiller.task.tally(built.data.num_classes, logits.device)
    tally.add(logits, batch.target)
    scores, table = tally.scores(), tally.tensors["confusion"]
    constant = 100 * float(table.sum(dim=1).max()) / max(int(table.sum()), 1)
    figures: dict[str, Any] = {**scores, "constant": constant, "images": len(batch.target)}
    text = (
        f"mIoU {scores['miou']:.1f}%, {scores['pixel_acc']:.1f}% of the pixels right on {len(batch.target)} "
    )
    text += "training images"
    if scores["pixel_acc"] > constant:
        return Finding(name, "ok", text, figures)
    advice = "it knows nothing of these classes. Check its weights, its classes and its normalisation"
    return Finding(name, "warning", f"{text} (one class for all: {constant:.1f}%): {advice}", figures)


def _map(name: str, logits: Tensor, batch: Batch) -> Finding:
    """Compares a teacher of images of several classes with one that ranks them by chance."""
    value = 100 * float(average_precision(logits, batch.target).nanmean())
    known, there = batch.target >= 0, batch.target == 1
    shares = there.sum(dim=0) / known.sum(dim=0).clamp_min(1)
    chance = 100 * float(shares[there.any(dim=0)].mean())  # a random order's expected precision is the share
    figures: dict[str, Any] = {"map": value, "chance": chance, "images": len(batch.target)}
    text = f"mAP {value:.1f}% on {len(batch.target)} training images (chance {chance:.1f}%)"
    if value > chance + 0.1 * (100 - chance):
        return Finding(name, "ok", text, figures)
    advice = "it knows next to nothing of these classes. Check its weights, its classes and its normalisation"
    return Finding(name, "warning", f"{text}: {advice}", figures)


def _precision_of(name: str, module: nn.Module, batch: Batch, built: Built) -> Finding:
    """Looks at whether a teacher finds objects at all."""
    with torch.no_grad():
        found = torch.cat([module(part).float() for part in batch.images.split(8)])
    if not torch.isfinite(found).all():
        return Finding(name, "error", "its boxes are NaN or infinite. Check its weights", {})
    scores, _ = detection_scores(found, batch.target, built.data.num_classes)
    text = f"AP {scores['ap']:.1f}, AP50 {scores['ap50']:.1f} on {len(batch.target)} training images"
    figures = {**scores, "images": len(batch.target)}
    if scores["ap50"] >= _FINDS:
        return Finding(name, "ok", text, figures)
    advice = f"below AP50 {_FINDS} on what it was trained on it has not converged. Check its weights and its images"
    return Finding(name, "warning", f"{text}: {advice}", figures)


def _normalisations(
    module: nn.Module, batch: Batch, built: Built
) -> tuple[str, float, tuple[float, ...], tuple[float, ...]]:
    """Returns the usual normalisation that a teacher answers best with: name, accuracy in percent, mean, std."""
    own = module if isinstance(module, Translated) else None
    channels = len(own.mean) if own is not None else built.data.channels
    tried = []
    for name, (mean, std) in _NORMALISATIONS.items():
        if channels == 1:
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        other = Translated(
            untranslated(module),
            (built.data.mean, built.data.std),
            (mean, std),
            image_size=own.image_size if own is not None else None,
            channels=own.channels if own is not None else None,
        ).to(batch.images.device)
        answered = _logits(lambda images, other=other: _in_our_classes(own, other(images)), batch)
        value = 100 * widen(answered.argmax(dim=1) == batch.target).mean().item()
        tried.append((name, value, mean, std))
    return max(tried, key=lambda found: found[1])


def _in_our_classes(own: Translated | None, logits: Tensor) -> Tensor:
    return logits if own is None else own.translate_logits(logits)


def _best_order(logits: Tensor, target: Tensor, classes: int) -> float:
    """Returns the accuracy in percent if each class of the teacher stood for the best class of ours."""
    pairs = torch.zeros(classes, classes, dtype=torch.int64)
    pairs.view(-1).index_add_(
        0, (target * classes + logits.argmax(dim=1)).cpu(), torch.ones(len(target), dtype=torch.int64)
    )
    rows, columns = linear_sum_assignment(pairs.numpy(), maximize=True)
    return 100 * float(pairs[rows, columns].sum()) / len(target)


def _memory(built: Built, device: torch.device) -> Finding:
    """Weighs weights, gradients, the optimiser's state and the activations that a step keeps for its backward."""
    train, distiller = built.config.train, built.distiller
    weights = sum(p.numel() * p.element_size() for p in distiller.trainable_parameters())
    guides = distiller.guides.teachers.values()
    teachers = sum(p.numel() * p.element_size() for t in guides for p in t.module.parameters())
    states = {"sgd": 1 if train.optimizer.momentum else 0, "adamw": 2}[train.optimizer.name]
    if distiller.needs_prepare:
        distiller.prepare([_labelled(built, device)])
    distiller.train()
    (few, small), (many, large) = (_saved(built, device, count) for count in (_SAVED // 2, _SAVED))
    activations = (large - small) / (many - few) if many > few else large / many
    constant = max(
        0.0, large - activations * many
    )  # weights in bf16 are kept once, however many images there are
    images = -(-train.batch_size // train.accumulate)
    students = len(train.seeds or [0])
    needed = students * weights * (2 + states) + teachers + constant + activations * images
    room = available(device)
    figures = {"needed": int(needed), "room": room, "activations_an_image": int(activations)}
    text = f"a step of {images} images keeps about {_gib(needed)} of {_gib(room)} ({device.type})"
    if needed > 0.9 * room:
        return Finding(
            "memory", "error", f"{text}. Raise train.accumulate or lower train.batch_size", figures
        )
    return Finding("memory", "warning" if needed > 0.6 * room else "ok", text, figures)


def _saved(built: Built, device: torch.device, count: int) -> tuple[int, int]:
    """Returns how many images were run forward, at most ``count``, and the bytes that were kept for the backward."""
    kept: dict[int, int] = {}

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = _sample(built, device, count)
    parameters = {p.untyped_storage().data_ptr() for p in built.distiller.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        out = _forward(built, batch)
    size = sum(size for place, size in kept.items() if place not in parameters)
    del out
    return len(batch.target), size


def available(device: torch.device) -> int:
    """Returns the bytes of a GPU that others leave, or built into this machine: caches give way."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _steps(built: Built, device: torch.device) -> Iterator[Finding]:
    """Yields what the terms of one step are, and where its time goes."""
    loader = train_loader(built, device)
    distiller, train = built.distiller, built.config.train
    distiller.train()
    batch = next(loader.epoch(0))
    terms = _step(built, loader, batch)
    wrong = [name for name, value in terms.items() if not abs(value) < float("inf")]
    shown = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
    if wrong:
        yield Finding(
            "losses", "error", f"{', '.join(wrong)} is NaN or infinite: {shown}. Lower the weight", terms
        )
        return
    yield Finding("losses", "ok", f"{shown} (weighted, epoch {train.epochs // 2 + 1})", terms)
    batches, asked = chain.from_iterable(map(loader.epoch, count())), distiller.task.asked(batch, 0, 0)
    times = {
        "data": _timed(device, lambda: next(batches)),
        "teacher": _timed(device, lambda: [t(asked) for t in distiller.guides.teachers.values()]),
        "step": _timed(device, lambda: _step(built, loader, batch)),
    }
    seeds = len(train.seeds or [0])
    times["step"] += (seeds - 1) * max(times["step"] - times["teacher"], 0.0)  # who share the teacher
    distiller.zero_grad(set_to_none=True)
    images = built.data.train.images
    workers = images.workers if isinstance(images, Undecoded) else 0  # they load while a step is computed
    waiting = max(times["data"] - times["step"], 0.0) if workers else times["data"]
    whole = waiting + times["step"]
    speed = len(batch.images) / whole
    hours = whole * loader.steps_per_epoch * train.epochs / 3600
    of = "a link of the chain" if built.config.assistants or built.config.generations > 1 else "in all"
    text = f"{1000 * whole:.0f} ms a step, {speed:,.0f} images/s, {_hours(hours)} {of}; "
    text += f"{'waiting for images' if workers else 'loading'} {waiting / whole:.0%}, "
    text += f"teacher {times['teacher'] / whole:.0%}"
    slow = waiting > 0.3 * whole
    helps = f"more than {workers} data.workers, smaller files" if workers else "a smaller data.image_size"
    advice = f". Loading is slow: {helps} helps" if slow else ""
    yield Finding("speed", "warning" if slow else "ok", text + advice, {**times, "images_per_second": speed})
    if distiller.guides:
        yield _table(built, times["teacher"] / whole)


def _table(built: Built, share: float) -> Finding:
    """Weighs a table of the teacher's answers against what it saves."""
    guides = built.distiller.guides.teachers.values()
    why = asked_in_step(built.config)
    if why is None and any(t.network.detects for t in guides):
        why = "it scores the student's own boxes"
    if why is None and not all(can_answer_ahead(t.roles) and not t.network.dense for t in guides):
        why = "it must show maps"
    augment = train_loader(built, torch.device("cpu")).augment
    if why is None and not augment.finite:
        why = "no view comes again (data.augment.fixed)"
    if why is not None:
        text = f"no table keeps what the teacher says: {why}"
        return Finding("table", "ok", text, {"possible": False})
    views, epochs = augment.num_views, built.config.train.epochs
    row = sum(
        DTYPES[built.config.guides[name].table_dtype].itemsize * sum(teacher.network.shapes[role])
        for name, teacher in built.distiller.guides.teachers.items()
        for role in teacher.roles
    )
    hits = expected_hits(epochs, views)
    distinct = (1 - hits) * epochs * len(built.data.train)
    text = f"remembering the teacher takes {_gib(row * distinct)} and saves {hits * share:.0%} of the run"
    return Finding(
        "table", "ok", text, {"possible": True, "bytes": int(row * distinct), "saved": hits * share}
    )


def _step(built: Built, loader: TrainLoader, batch: Batch) -> dict[str, float]:
    """Takes the gradients of a batch in as many parts as the run will; returns its terms."""
    shares = [counts[0] for counts in loader.shares(0)]
    terms, stop = dict[str, float](), 0
    for i, size in enumerate(shares):
        rows = slice(stop, stop := stop + size)
        out = _forward(built, batch.each(itemgetter(rows)) if len(shares) > 1 else batch)
        built.distiller.backward(out, last=i == len(shares) - 1, scale=size / sum(shares))
        for name, value in out.terms.items():
            terms[name] = terms.get(name, 0.0) + float(value.detach()) * size / sum(shares)
    return terms


def _forward(built: Built, batch: Batch) -> Any:
    """Returns the losses of a batch in the middle of the run, when terms that start late have begun."""
    return built.distiller(**batch.inputs, epoch=built.config.train.epochs // 2)


def _sample(built: Built, device: torch.device, count: int) -> Batch:
    return next(train_loader(built, device).epoch(0)).each(lambda column: column[:count].clone())


def _labelled(built: Built, device: torch.device) -> Batch:
    """Returns labelled training images, un-augmented, evenly out of the whole set."""
    train = built.data.train
    places = (kinds(train) >= 0).nonzero()[:, 0]
    count = min(_MASKS if isinstance(train, MaskSet | BoxSet) else _LOOKED_AT, len(places))
    chosen = places[torch.arange(count) * len(places) // max(1, count)]
    parts = list(eval_batches(train.subset(chosen), built, device)) if len(chosen) else []
    if not parts:
        return _sample(built, device, 0)
    images, targets, index = (
        torch.cat(column) for column in zip(*((p.images, p.target, p.index) for p in parts), strict=True)
    )
    return Batch(images, targets, index)


@torch.no_grad()
def _logits(answer: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    return torch.cat([answer(part).float() for part in batch.images.split(100)])


def _timed(device: torch.device, run: Callable[[], Any]) -> float:
    """Returns the mean seconds of a few runs, after one that does not count."""
    run()
    began, count = clock(device), 0
    while count < _TIMED or (clock(device) - began < _SECONDS and count < 20):
        run()
        count += 1
        if clock(device) - began > _SECONDS:
            break
    return (clock(device) - began) / count


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
