"""From a config to what it names: data, models, distiller, the loop's job. Automatic choices are made here."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.config import AUTO, AugmentConfig, Config, DataConfig, ModelConfig, TeacherConfig, TrainConfig
from understudy.data import (
    Augment,
    AutoAugment,
    BoxSet,
    MaskSet,
    MultiLabelSet,
    PadCropFlip,
    Policy,
    RandAugment,
    ResizedCrop,
    ScaleCropFlip,
    Splits,
)
from understudy.data import load as load_data
from understudy.data.images import ImageSet
from understudy.data.loader import EvalLoader, TrainLoader
from understudy.data.mix import Mix
from understudy.data.noise import noisy_labels
from understudy.data.order import class_counts
from understudy.data.splits import kinds
from understudy.data.undecoded import Undecoded, worker_lost
from understudy.engine.captured import CapturedSteps
from understudy.engine.console import Console
from understudy.engine.distiller import Distiller, check_mixing
from understudy.engine.distributed import LEAST, Ranks
from understudy.engine.evaluate import Shard, evaluating
from understudy.engine.launch import forsake, join, lost
from understudy.engine.loop import Job
from understudy.engine.measure import measure
from understudy.engine.memory import kept_pages
from understudy.engine.optim import make_optimizer
from understudy.engine.stream import Stream
from understudy.engine.trackers import check_trackers
from understudy.interface import Batch
from understudy.methods.term import judging_terms
from understudy.models import SAVED, backbone_alone
from understudy.models.published import published
from understudy.smallest import check_smallest
from understudy.widest import has_float64
from understudy.worlds import read_student, read_teacher

_PIXELS_AT_ONCE = 2**22  # of images that are measured, where each pixel has logits


@dataclass(frozen=True, slots=True)
class Built:
    """A config and what became of it."""

    config: Config
    """With every automatic choice made."""
    data: Splits
    distiller: Distiller
    notes: tuple[str, ...]
    """What the user should be told."""


@contextmanager
def process(config: Config) -> Iterator[torch.device]:
    """Sets what belongs to the process (threads, random state, memory) for one job, and gives it back after.

    A process that was started as one of several joins the others here.
    """
    threads = torch.get_num_threads()
    device = join(find_device(config.train.device))
    try:
        rng = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with rng, kept_pages(device):
            torch.set_num_threads(config.train.threads or threads)
            torch.manual_seed(config.seed)
            yield device
    except BaseException as error:
        forsake()
        if (line := lost(error) or worker_lost(error)) is not None:
            raise ValueError(line) from error
        raise
    finally:
        torch.set_num_threads(threads)


def joined(config: Config) -> Ranks:
    """Returns the processes that run this job together, after joining them."""
    join(find_device(config.train.device))
    return Ranks()


def find_device(name: str) -> torch.device:
    """Returns the device of ``train.device``; ``auto`` is the first GPU, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0][:120]
        if reason.startswith("Expected one of"):  # all that torch knows of
            reason = "no kind of device"
        raise ValueError(
            f"train.device must be on this machine, got {name!r} ({reason}). Use auto, cpu, cuda or cuda:1"
        ) from None


def _check_narrow(config: Config, device: torch.device) -> None:
    """Refuses on a device without float64 (MPS) what has not been seen to work there."""
    if has_float64(device):
        return
    unfit = {
        "train.precision": config.train.precision == "bf16",
        "train.divergence.policy": config.train.divergence.policy == "skip",
        **{
            f"{config.guide_key(name)}.{key}": getattr(guide, key) == value
            for name, guide in config.guides.items()
            for key, value in (("precision", "bf16"), ("table_dtype", "fp64"))
        },
    }
    for key, given in unfit.items():
        if given:
            raise ValueError(
                f"{key} must be left at its default on {device.type}, got another. Take it out, or use train.device=cpu"
            )


def memory_format(train: TrainConfig, device: torch.device) -> torch.memory_format:
    """Returns how images and weights lie in memory; on MPS as usual, since channels-last has not been tried there."""
    if train.channels_last and has_float64(device):
        return torch.channels_last
    return torch.contiguous_format


def read_data(config: DataConfig) -> Splits:
    """Returns the images of a config's ``data:``."""
    loop_side = {"name", "seed", "augment", "mix", "balance", "label_noise"}
    defaults = {name: field.default for name, field in DataConfig.model_fields.items()}
    given = config.model_dump(exclude=loop_side)
    if config.augment is not None and config.augment.whole:
        given["resident"] = False
    return load_data(config.name, **{key: value for key, value in given.items() if value != defaults[key]})


def with_label_noise(data: Splits, config: Config) -> Splits:
    """Returns the images with the training labels made wrong that ``data.label_noise`` asks for."""
    noise = config.data.label_noise
    if noise is None or _kind(data.train) != "classification":  # which is refused later
        return data
    train = noisy_labels(data.train, noise.share, data_seed(config), noise.kind)
    return replace(data, train=train, wrong_labels=int((train.targets != data.train.targets).sum()))


def read_model(config: ModelConfig, data: Splits, device: torch.device) -> nn.Module:
    """Returns the network of a config's ``student:`` or ``teacher:`` for the classes and the images of the data."""
    return read_student(config, data, device)[0]


def untrained(network: ModelConfig, data: Splits | None = None) -> bool:
    """Returns whether a network begins with random weights, all of them or its last layers'.

    Args:
        network: of the config.
        data: whose classes it is to know; without them, pretrained weights are taken to be of these classes.
    """
    if network.weights is not None or network.model.endswith(SAVED):
        return False
    if not network.pretrained or backbone_alone(network.model):
        return True
    return data is not None and _of_other_classes(network, data) is not None


def at_random(name: str, key: str, network: ModelConfig, data: Splits) -> str:
    """Returns what is said of a network without weights that is asked for its answers."""
    if not network.pretrained or backbone_alone(network.model):
        return f"{name} has no weights and answers at random; set {key}.weights"
    return (
        f"{name} is pretrained for {_of_other_classes(network, data):,} classes, the data have "
        f"{data.num_classes:,}: its last layer is a new one and answers at random; train it on these data first "
        f"(understudy train) and set {key}.weights"
    )


def _of_other_classes(network: ModelConfig, data: Splits) -> int | None:
    """Returns how many classes pretrained weights know; ``None`` for as many as the data's, or if they are matched."""
    if isinstance(network, TeacherConfig) and network.classes is not None:
        return None
    known = published(network.model, pretrained=True).num_classes
    return None if known is None or known == data.num_classes else known


def build(config: Config, device: torch.device, data: Splits | None = None) -> Built:
    """Returns data and distiller of a config.

    Args:
        config: what to build.
        device: to train on.
        data: the config's images, where they are read already (:func:`with_label_noise`).

    Raises:
        ValueError: anything the config names that does not exist or does not fit together.
    """
    notes, ranks = [], Ranks()
    _check_narrow(config, device)
    data = with_label_noise(read_data(config.data), config) if data is None else data
    if isinstance(data.train, BoxSet) and not has_float64(device):
        raise ValueError(
            f"train.device must be cpu or cuda where objects are found, got {device.type}, for which that is not "
            "written. Use train.device=cpu"
        )
    student, own, line = read_student(config.student, data, device)
    choices = {f"student.{key}": value for key, value in own.items()}
    if line is not None:
        notes.append(f"student {line}; what is deployed takes the data's images and prepares them itself")
    if line is not None and config.train.shard and ranks.several:
        raise ValueError(
            "train.shard must be off for a student with images of its own, got both. Leave out student.image_size, "
            "channels, mean and std, or train.shard"
        )
    guides = config.guides
    teachers = {}
    for name, guide in guides.items():
        waiting = guide.shard and ranks.several  # on the host, to be divided
        teachers[name], chosen, line = read_teacher(guide, data, torch.device("cpu") if waiting else device)
        choices |= {f"{config.guide_key(name)}.{key}": value for key, value in chosen.items()}
        notes += [] if line is None else [f"{name} {line}"]
    notes += [
        at_random(name, config.guide_key(name), guide, data)
        for name, guide in guides.items()
        if untrained(guide, data)
    ]
    if (form := memory_format(config.train, device)) != torch.contiguous_format:
        for module in (student, *teachers.values()):
            module.to(memory_format=form)  # pyright: ignore[reportCallIssue]
    distiller = Distiller(
        student,
        teachers,
        config.losses,
        align=config.gradients.align,
        twin=config.gradients.twin,
        example=torch.zeros(2, data.channels, *_size_of_views(config.data, data), device=device),
        train_targets=targets_as_read(data),
        student_taps=config.student.taps,
        teacher_taps={name: guide.taps for name, guide in guides.items()},
        precision=config.train.precision,
        multilabel=isinstance(data.train, MultiLabelSet),
        sync_bn=config.train.sync_bn,
        shard=config.train.shard,
        sharded_teachers=[name for name, guide in guides.items() if guide.shard],
    )
    if (
        not judging_terms(distiller.terms)
        and config.student.weights is None
        and not config.student.pretrained
    ):
        notes.append(
            "no term reaches the student's classifier: its answers stay those of random weights. Add ce or kd"
        )
    if config.train.compile:
        distiller.compile_student()
        for epoch in range(config.train.epochs):
            distiller.check_compiled(epoch)
    _check_task(config, data, distiller)
    _check_labels(data, distiller)
    mix = config.data.mix
    if mix is not None:
        check_mixing(distiller.terms)
        asked = "; the teacher sees them, so no table of its answers is kept" if guides else ""
        notes.append(
            f"images are mixed ({mix.name}, alpha {mix.alpha:g}){asked}; train accuracy is that on the label with the "
            "larger share"
        )
    if not has_float64(device):
        notes.append(
            f"understudy was written for {device.type}, but has not been run on it; check a run against cpu"
        )
    augment = augmentation(config.data, data)
    resolved = config.replaced(
        **{
            "losses": [term.spec() for term in distiller.terms],
            **choices,
            "data.mean": list(data.mean),
            "data.std": list(data.std),
            "data.seed": data_seed(config),
            "data.augment": (
                augment_config(augment)
                if config.data.augment is None
                else config.data.augment.model_dump(mode="json") | {"pad": augment_config(augment)["pad"]}
            ),
            "data.resident": data.train.resident,
            "data.workers": (
                data.train.images.workers if isinstance(data.train.images, Undecoded) else config.data.workers
            ),
            "train.device": device.type if config.train.device == AUTO else config.train.device,
            "train.threads": torch.get_num_threads(),
        }
    )
    if isinstance(augment, (ResizedCrop, Policy)) and augment.fixed is not None:
        notes.append(
            f"each image is shown in {augment.fixed} fixed views, not in ever new ones (data.augment.fixed)"
        )
    if config.train.capture and (reason := _no_capture(config, device)) is not None:
        notes.append(f"steps run one by one, not as a graph: {reason}")
    notes += data.train.notes if isinstance(data.train, BoxSet) else ()
    if isinstance(data.train.images, Undecoded):
        notes.append(_left_undecoded(data.train.images, config.data, bool(guides)))
    if config.data.label_noise is not None:
        noise, labels = config.data.label_noise, int((data.train.targets >= 0).sum())
        assert data.wrong_labels is not None
        notes.append(
            f"{data.wrong_labels:,} of {labels:,} training labels ({data.wrong_labels / labels:.1%}) are wrong on "
            f"purpose, {noise.kind} (data.label_noise); those of held-out and test images are not"
        )
    if config.data.balance:
        notes.append(_shown(data, config.data.balance))
    names = {term.name for term in distiller.terms}
    if "ce" in names and names & {"binary_kl", "binary_kl_norm"}:
        notes.append(
            "cross-entropy and a sigmoid loss share one head; the DHKD paper reports collapse for weights above .1 "
            "(App. A). The term dhkd gives the loss a head of its own"
        )
    return Built(resolved, data, distiller, tuple(notes))


def _left_undecoded(images: Undecoded, config: DataConfig, taught: bool) -> str:
    """Returns how training images come that are not in memory, in words."""
    by = f"{images.workers} processes" if images.workers else "this process"
    size = math.prod(images.shape) / 2**30
    asked = "; the teacher is asked in every step, and no table of its answers is kept" if taught else ""
    why = "their crops are taken out of the files (data.augment.whole)"
    if config.augment is None or not config.augment.whole:
        why = f"all would take {size:.2f} GiB (data.resident)"
    return f"images are decoded batch by batch by {by}: {why}{asked}"


def _shown(data: Splits, balance: float) -> str:
    """Returns how often an epoch shows the images of each class, in words."""
    sizes = data.train.targets.clamp_min(0).cpu().bincount()
    present = sizes > 0
    before, after = (counts[present].tolist() for counts in (sizes, class_counts(sizes, balance)))
    return (
        f"classes of {min(before):,} to {max(before):,} training images are shown {min(after):,} to "
        f"{max(after):,} times an epoch (data.balance {balance:g})"
    )


def _size_of_views(config: DataConfig, data: Splits) -> tuple[int, int]:
    """Returns height and width of the images that are trained on."""
    augment = augmentation(config, data)
    return augment.size(data.image_size) if isinstance(augment, ScaleCropFlip) else data.image_size


_KINDS = {
    "classification": ("a label an image", "resnet18"),
    "detection": ("boxes", "frcnn_small, fasterrcnn_resnet18, torchvision/fasterrcnn_resnet50_fpn"),
    "multilabel": ("several labels an image", "resnet18"),
    "segmentation": (
        "a mask an image",
        "fcn_small, deeplabv3_resnet18, torchvision/lraspp_mobilenet_v3_large",
    ),
}
"""Task -> what its images come with, and networks for it."""
_DOES = {
    "classification": "classifies the image",
    "detection": "finds objects",
    "multilabel": "classifies the image",
    "segmentation": "classifies every pixel",
}
_HAVE = {"detection": "boxes", "multilabel": "several labels", "segmentation": "masks"}


def _kind(images: ImageSet) -> str:
    """Returns the name of the task that a set is for."""
    if isinstance(images, BoxSet):
        return "detection"
    if isinstance(images, MultiLabelSet):
        return "multilabel"
    return "segmentation" if isinstance(images, MaskSet) else "classification"


def _check_task(config: Config, data: Splits, distiller: Distiller) -> None:
    """Refuses a network of another task than the images are for, and what their labels do not allow."""
    kind = _kind(data.train)
    if kind != distiller.task.name:
        have, names = _KINDS[kind]
        raise ValueError(
            f"student.model must suit the data, got {config.student.model}, which {_DOES[distiller.task.name]}, for "
            f"{config.data.name} with {have}. Choose a network such as {names}"
        )
    if kind == "detection" and len(config.guides) > 1:
        raise ValueError(
            f"there must be one teacher where objects are found, got {len(config.guides)}. Keep one of them"
        )
    train = config.train
    whole = {
        "train.shard": train.shard,
        **{f"{config.guide_key(name)}.shard": guide.shard for name, guide in config.guides.items()},
    }
    for key, value in whole.items():
        if kind == "detection" and value:
            raise ValueError(
                f"{key} must be off where objects are found: how many boxes are left depends on the image. Turn it off"
            )
    given = config.data.augment or AugmentConfig()
    one_label = {"balance": config.data.balance, "label_noise": config.data.label_noise}
    no_masks = {
        "mix": config.data.mix,
        "augment.randaugment": given.randaugment,
        "augment.autoaugment": given.autoaugment,
    }
    refused = {} if kind == "classification" else one_label | ({} if kind == "multilabel" else no_masks)
    for key, value in refused.items():
        if value:
            raise ValueError(
                f"data.{key} must be left out for images with {_HAVE[kind]}, got it for {config.data.name}. "
                f"It is for images with {'one label' if key in one_label else 'labels'} each"
            )
    for name, guide in config.guides.items():
        if kind == "multilabel" and guide.classes is not None and guide.classes.merges:
            raise ValueError(
                f"{config.guide_key(name)}.classes must give each class one of the teacher's where an image may have "
                "several, got some with more. Name one each"
            )


def _check_labels(data: Splits, distiller: Distiller) -> None:
    """Refuses to train terms that use labels on images without."""
    without = int((kinds(data.train) < 0).sum())
    for term in distiller.terms:
        if without and term.method.uses_labels:
            raise ValueError(
                f"term {term.label!r} must have labels, got {without:,} of {len(data.train):,} training images "
                "without. Label them, take them out, or keep only terms that use none (kd, dist, at ...)"
            )


def build_job(
    built: Built,
    folder: Path,
    console: Console,
    device: torch.device,
    stop: threading.Event,
    stream: Stream | None = None,
) -> Job:
    """Returns what the loop needs to train ``built`` into ``folder``.

    Args:
        built: the config and what became of it.
        folder: of the run.
        console: what the run says goes there.
        device: to train on.
        stop: see :class:`understudy.engine.loop.Job`.
        stream: of a job in lockstep with this one; by default one of its own.
    """
    config, data, train = built.config, built.data, built.config.train
    check_trackers(train.trackers)
    ranks = built.distiller.ranks
    if ranks.several and train.batch_size < LEAST * ranks.world:
        raise ValueError(
            f"train.batch_size must be at least {LEAST} for each of {ranks.world} processes, got {train.batch_size}. "
            "Raise it: it counts over all of them"
        )
    job = Job(
        distiller=built.distiller,
        optimizer=make_optimizer(train.optimizer, built.distiller.trainable_parameters()),
        stream=stream
        or Stream(
            train_loader(built, device),
            asked=lambda epoch: built.distiller.guides.asked(built.distiller.active(epoch)),
        ),
        train=train,
        seed=config.seed,
        device=device,
        folder=folder,
        console=console,
        captured=CapturedSteps(built.distiller)
        if train.capture and _no_capture(config, device) is None
        else None,
        stop=stop,
    )
    if data.val is not None:
        batches = divided_batches(data.val, built, device)

        # the job is given, not enclosed, so that it ends with its last reference
        def score(job: Job) -> dict[str, float]:
            with job.measured(), evaluating(built.distiller):
                held_out = measure(
                    job.task, {"val": built.distiller.predict}, batches, data.num_classes, device
                )["val"]
            return {f"val/{name}": value for name, value in held_out.scores.items() if name != "acc5"}

        job.measure = score
    return job


def _no_capture(config: Config, device: torch.device) -> str | None:
    """Returns why steps cannot be recorded, ``None`` where they can."""
    if device.type != "cuda":
        return f"device is {device.type}, not cuda"
    if Ranks().several:
        return "several processes share each batch"
    if config.data.mix is not None:
        return "images are mixed in another way in every step (data.mix)"
    return "a batch is cut in parts (train.accumulate)" if config.train.accumulate > 1 else None


def train_loader(built: Built, device: torch.device) -> TrainLoader:
    """Returns this process's batches of augmented training images."""
    config, ranks = built.config, built.distiller.ranks
    loader = _loader(
        built,
        device,
        rank=ranks.rank,
        world=ranks.world,
        parts=config.train.accumulate,
        drop_last=config.train.drop_last,
        mix=None if config.data.mix is None else Mix(**config.data.mix.model_dump()),
        balance=config.data.balance,
    )
    check_smallest(built.distiller, loader, config)
    return loader


def _loader(built: Built, device: torch.device, **options: Any) -> TrainLoader:
    """Returns batches of augmented training images; without further options of all of them, each once an epoch."""
    config, data = built.config, built.data
    return TrainLoader(
        data.train,
        augmentation(config.data, data),
        batch_size=config.train.batch_size,
        seed=data_seed(config),
        mean=data.mean,
        std=data.std,
        device=device,
        memory_format=memory_format(config.train, device),
        **options,
    )


@dataclass(frozen=True, slots=True)
class FirstEpoch:
    """All training images as the first epoch shows them, each once and unmixed, as often as one likes."""

    built: Built
    device: torch.device

    def __iter__(self) -> Iterator[Batch]:
        return _loader(self.built, self.device).epoch(0)


def eval_batches(images: ImageSet, built: Built, device: torch.device) -> EvalLoader:
    """Returns un-augmented batches of a set, normalised as in training."""
    data, train = built.data, built.config.train
    most = train.eval_batch_size
    if isinstance(
        images, MaskSet | BoxSet
    ):  # logits, and maps of a pyramid, are as large as the images, many times
        most = min(most, max(1, _PIXELS_AT_ONCE // math.prod(images.image_size)))
    return EvalLoader(
        images,
        batch_size=most,
        mean=data.mean,
        std=data.std,
        device=device,
        memory_format=memory_format(train, device),
    )


def divided_batches(images: ImageSet, built: Built, device: torch.device) -> EvalLoader | Shard:
    """Returns this process's part of :func:`eval_batches`, whose answers are gathered from all processes.

    Where the teachers must be asked by all processes together, each gets the whole.
    """
    ranks = Ranks()
    if not ranks.several or built.distiller.guides.divided:
        return eval_batches(images, built, device)
    first, stop = (len(images) * r // ranks.world for r in (ranks.rank, ranks.rank + 1))
    return Shard(eval_batches(images.subset(torch.arange(first, stop)), built, device), ranks, device)


def targets_as_read(data: Splits) -> Tensor | None:
    """Returns the label (or labels) of every training image by its index, -1 for those held out or left out.

    Masks are returned as they are: no term keeps anything by an image's number. Boxes are not returned.
    """
    if isinstance(data.train, BoxSet):
        return None
    if isinstance(data.train, MaskSet):
        return data.train.targets
    own = data.train.targets
    targets = torch.full((data.train.num_read, *own.shape[1:]), -1, dtype=own.dtype)
    targets[data.train.index] = own
    return targets


def augmentation(config: DataConfig, data: Splits) -> Augment:
    """Returns the random views of the training images; by default a crop out of an eighth of padding, and flips.

    For 32×32 images that is the pad-4 crop and flip of every CIFAR paper. Digits are not mirrored.
    """
    given = config.augment
    if isinstance(data.train, MaskSet):
        return _joint_views(given)
    if isinstance(data.train, BoxSet):
        return _mirrored_views(given)
    if given is not None and given.name == "scale_crop":
        raise ValueError(
            f"data.augment.name scale_crop must have images with masks, got {config.name}. Use resized_crop"
        )
    if given is None:
        return PadCropFlip(min(data.image_size) // 8, config.name != "digits")
    policy = None
    if given.randaugment is not None:
        policy = RandAugment(given.randaugment.ops, given.randaugment.magnitude)
    elif given.autoaugment is not None:
        policy = AutoAugment(given.autoaugment)
    fixed = given.fixed if policy is None else None
    crop = (
        PadCropFlip(4 if given.pad is None else given.pad, given.flip)
        if given.name == "pad_crop"
        else ResizedCrop(given.scale, given.ratio, given.flip, given.colour, fixed, given.whole)
    )
    return crop if policy is None else Policy(crop, policy, given.fixed)


def _joint_views(given: AugmentConfig | None) -> ScaleCropFlip:
    """Returns the random views of images with masks."""
    if given is None:
        return ScaleCropFlip()
    if given.name != "scale_crop":
        raise ValueError(
            f"data.augment.name must be scale_crop for images with masks, got {given.name}. It shows both alike"
        )
    return ScaleCropFlip(given.zoom, given.crop, given.flip)


def _mirrored_views(given: AugmentConfig | None) -> PadCropFlip:
    """Returns the random views of images with boxes: themselves, maybe mirrored."""
    if given is not None and (given.name != "pad_crop" or given.pad):
        raise ValueError(
            f"data.augment must be {{name: pad_crop, pad: 0}} for images with boxes, got {given.name} with pad "
            f"{given.pad}. They are mirrored, or not (flip)"
        )
    return PadCropFlip(0, given is None or given.flip)


def augment_config(augment: Augment) -> dict[str, Any]:
    """Returns the config's ``data.augment`` that makes these views."""
    if isinstance(augment, ScaleCropFlip):
        joint = AugmentConfig(name="scale_crop", zoom=augment.scale, crop=augment.crop, flip=augment.flip)
        return joint.model_dump(mode="json")
    crop = augment.base if isinstance(augment, Policy) else augment
    name = "pad_crop" if isinstance(crop, PadCropFlip) else "resized_crop"
    given: dict[str, Any] = {"name": name, **asdict(crop)}
    if isinstance(augment, Policy):
        policy = augment.policy
        given["fixed"] = augment.fixed
        if isinstance(policy, RandAugment):
            given["randaugment"] = asdict(policy)
        else:
            given["autoaugment"] = policy.policy
    return AugmentConfig(**given).model_dump(mode="json")


def data_seed(config: Config) -> int:
    """Returns the seed of order and views."""
    return config.seed if config.data.seed is None else config.data.seed
