"""The schema of a job: strict, frozen, and printing it gives the YAML that rebuilds it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from understudy.interface import Align, Search
from understudy.methods.presets import preset
from understudy.methods.term import build_terms, first_problem, said_of
from understudy.words import did_you_mean

AUTO = "auto"
MOST_ENTRIES = 100_000
"""Of a config, so that a small file cannot unfold into a large one."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class RandAugmentConfig(_Strict):
    """Some operations on the pixels, each one of fourteen, all of one magnitude."""

    ops: int = Field(default=2, ge=1, le=14)
    """How many, one after the other."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """How strong, of 30."""


_OF_VIEWS = {
    "pad": ("pad_crop",),
    "scale": ("resized_crop",),
    "ratio": ("resized_crop",),
    "colour": ("resized_crop",),
    "whole": ("resized_crop",),
    "zoom": ("scale_crop",),
    "crop": ("scale_crop",),
}
"""Which fields of :class:`AugmentConfig` belong to which kinds of views."""


class AugmentConfig(_Strict):
    """The random views of a training image."""

    name: Literal["pad_crop", "resized_crop", "scale_crop"] = "pad_crop"
    """``resized_crop``: a crop of random area and shape, scaled back (ImageNet's); ``scale_crop``: a window of the
    scaled image and its mask, for segmentation. Of these no view comes twice."""
    pad: int | None = Field(default=None, ge=0, le=64)
    """Of ``pad_crop``: pixels of zero padding on each side, out of which a crop of the image's size is taken; by
    default 4, and 0 for images with boxes."""
    flip: bool = True
    """Whether half of the views are mirrored."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Of ``resized_crop``: smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Of ``resized_crop``: smallest and largest width over height."""
    colour: float = Field(default=0.0, ge=0, lt=1)
    """Of ``resized_crop``: how far brightness, contrast and saturation may be from 1."""
    whole: bool = False
    """Of ``resized_crop``: take crops out of whole images while they are decoded, as torchvision does, not out of
    their centre squares; the images stay in their files (``resident: false``)."""
    zoom: tuple[float, float] = (0.5, 2.0)
    """Of ``scale_crop``: smallest and largest factor."""
    crop: tuple[int, int] | None = None
    """Of ``scale_crop``: height and width of the window; by default the image's."""
    fixed: int | None = Field(default=None, ge=1)
    """Of endless views: show only so many of each image, so that a teacher's answers to them can be kept."""
    randaugment: RandAugmentConfig | None = None
    """After crop and flip: RandAugment; no view comes twice."""
    autoaugment: Literal["cifar10", "imagenet", "svhn"] | None = None
    """After crop and flip: AutoAugment with the policy found on this set; no view comes twice."""

    @property
    def endless(self) -> bool:
        """Whether no view would come twice without ``fixed``."""
        return self.name == "resized_crop" or self.randaugment is not None or self.autoaugment is not None

    @model_validator(mode="after")
    def _views_go_together(self) -> AugmentConfig:
        for field, names in _OF_VIEWS.items():
            default = type(self).model_fields[field].default
            if self.name not in names and getattr(self, field) != default:
                raise ValueError(
                    f"{field} must stand beside name: {' or '.join(names)}, got {getattr(self, field)} beside "
                    f"{self.name}. Set name, or leave {field} out"
                )
        if self.randaugment is not None and self.autoaugment is not None:
            raise ValueError("randaugment and autoaugment must not both be given, got both. Keep one of them")
        if self.fixed is not None and not self.endless:
            raise ValueError(
                f"fixed must stand beside resized_crop, randaugment or autoaugment, got {self.fixed} of pad_crop, "
                "whose views are counted anyway. Leave it out"
            )
        return self


class MixConfig(_Strict):
    """Two images in one; the partner is drawn out of the same batch."""

    name: Literal["mixup", "cutmix"]
    alpha: float = Field(default=1.0, gt=0)
    """The share of the first image is drawn from Beta(alpha, alpha), once a step."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Share of the steps in which images are mixed."""


class LabelNoiseConfig(_Strict):
    """Labels of training images that are made wrong on purpose."""

    share: float = Field(gt=0, le=1)
    """Probability that a label is wrong."""
    kind: Literal["symmetric", "pair"] = "symmetric"
    """Any other class, each equally likely; or the next class."""


class DataConfig(_Strict):
    """Which images, and how they are seen."""

    name: str
    """A data set of the library (``understudy list data``), or ``package.module:function``."""
    root: str | None = None
    """Its folder, for sets that have one."""
    train: str | list[str] | None = None
    """Where the training images are: a path, of ``parquet`` also several; of ``hf`` a split."""
    test: str | list[str] | Literal[False] | None = None
    """Likewise; false: none, also of a set that has some (what is held out of training is measured then)."""
    download: bool = False
    """Fetch a public set that is not there; nothing is fetched otherwise."""
    image_size: int | tuple[int, int] | None = None
    """Pixels a side; height and width for sets with masks."""
    resize: int | None = Field(default=None, ge=8)
    """Pixels that the shorter side is scaled to before the centre square of ``image_size`` is cut out; by default
    ``image_size``. ImageNet's networks are measured at 256 and 224."""
    channels: Literal[1, 3] | None = None
    """Of images read from files: 1 makes them grey, 3 (the default) colour."""
    val: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the training images held out; everything that is chosen is chosen on it."""
    split_seed: int = 0
    """Of the choices that ``val`` and ``limit`` make; not the run's seed, so that seeds share one split."""
    limit: int | None = Field(default=None, ge=1)
    """Use only so many training images, balanced over the classes."""
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    """Seed of order and views; by default the run's seed."""
    image_column: str | None = None
    """Column of a table that has the images; by default ``image``."""
    label_column: str | None = None
    """Likewise the labels; by default ``label``."""
    label_separator: str | None = Field(default=None, min_length=1)
    """Of a manifest: what stands between the classes of one image, which then may have several."""
    label_columns: list[str] | None = Field(default=None, min_length=2)
    """Of a manifest: the columns of 1 and 0, one a class, of images that may have several."""
    max_gib: float | None = Field(default=None, gt=0)
    """Memory that the decoded images of a part may take: beyond it they are decoded batch by batch, or refused."""
    resident: Literal["auto"] | bool = AUTO
    """Whether all images are decoded into memory; ``auto``: if they fit ``max_gib`` (8)."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that decode images that are not resident; by default one a processor, at most 8."""
    augment: AugmentConfig | None = None
    """By default a crop out of an eighth of padding, and flips (digits are not mirrored)."""
    mix: MixConfig | None = None
    """Mixup or CutMix; the teacher sees the mixed images, so no table of its answers is kept."""
    balance: float = Field(default=0.0, ge=0.0, le=1.0)
    """How far rare classes are shown more often: 0 shows every image once an epoch, 1 every class equally often."""
    label_noise: LabelNoiseConfig | None = None
    """Make a share of the training labels wrong (not of the images held out or of the test); by the data seed."""
    mean: list[float] | None = None
    """Of every channel, 0 to 1; by default the published ones for CIFAR, else those of all training images."""
    std: list[float] | None = None
    """Likewise."""

    @model_validator(mode="after")
    def _whole_images_stay_in_their_files(self) -> DataConfig:
        if self.augment is not None and self.augment.whole and self.resident is True:
            raise ValueError(
                "data.resident must not be true beside data.augment.whole, whose crops are taken out of the files, got "
                "both. Leave one out"
            )
        return self

    @field_validator("resident", mode="before")
    @classmethod
    def _resident_is_one_of_three(cls, value: Any) -> Any:
        if value not in (AUTO, True, False):
            raise ValueError(
                f"data.resident must be auto, true or false, got {value!r}. Leave it out for auto"
            )
        return value

    @field_validator("image_size", mode="before")
    @classmethod
    def _sides_are_pixels(cls, size: Any) -> Any:
        sides = [size] if isinstance(size, int) else size
        pair = isinstance(sides, list | tuple) and len(sides) == (1 if sides == [size] else 2)
        if size is not None and not (pair and all(type(side) is int and side >= 8 for side in sides)):
            raise ValueError(
                f"data.image_size must be a number from 8 up, or [HEIGHT,WIDTH] for masks, got {size}. Correct it"
            )
        return size


class ModelConfig(_Strict):
    """A network: by name, with weights from a file if given."""

    model: str
    """A network of the library, ``torchvision/NAME``, ``timm/NAME``, ``hf/NAME``, ``package.module:factory``, or a file
    ``.pt2`` or ``.onnx``."""
    weights: str | None = None
    """A file of the network's weights: ``.safetensors``, ``.pth``, a run's ``student.safetensors``."""
    pretrained: bool = False
    """Download the library's own pretrained weights (torchvision, timm, a name on Hugging Face's hub); those of a
    local folder (``hf/FOLDER``) are read from there."""
    options: dict[str, Any] = {}
    """Arguments for the network's own constructor, e.g. ``{img_size: 64}`` for timm's transformers."""
    taps: dict[str, str] = {}
    """Module paths by role, where finding them automatically fails."""
    mean: list[float] | None = None
    """Of every channel of its images, 0 to 1; by default the data's, a teacher's what its weights say."""
    std: list[float] | None = None
    """Likewise."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels, or one number for both; likewise."""
    channels: Literal["grey", "rgb", "bgr"] | None = None
    """Likewise; ``rgb`` of grey images repeats the channel."""

    @field_validator("image_size", mode="before")
    @classmethod
    def _one_side_is_both(cls, size: Any) -> Any:
        sides = [size, size] if type(size) is int else size
        good = isinstance(sides, list | tuple) and len(sides) == 2
        if size is not None and not (good and all(type(side) is int and side > 0 for side in sides)):
            raise ValueError(
                f"image_size of a network must be a number of pixels, or [HEIGHT,WIDTH], got {size}. Correct it"
            )
        return sides


class ClassesConfig(_Strict):
    """Which of the teacher's classes make each class of the data."""

    map: (
        Literal["name"] | list[int | str | list[int | str]] | dict[str | int, int | str | list[int | str]]
    ) = "name"
    """``name``; or an entry for each class of the data, in order or by its name: a number or name, or several."""
    names: list[str] | str | None = None
    """The teacher's classes, or a file with one a line; by default what its weights say."""
    count: int | None = Field(default=None, ge=1)
    """How many classes the teacher has, where neither names nor weights say it."""

    @property
    def merges(self) -> bool:
        """Whether a class of the data is made of several."""
        entries = self.map.values() if isinstance(self.map, dict) else self.map
        return any(isinstance(entry, list) and len(entry) > 1 for entry in entries)


class TeacherConfig(ModelConfig):
    """A frozen network, how it answers, and its classes, which may be others than the student's."""

    table: str = AUTO
    """Where its answers to every view of every image are kept: ``auto``, ``memory``, ``off``, or a folder."""
    table_dtype: Literal["fp32", "fp16", "fp64"] = "fp32"
    """Numbers of the table; fp32 keeps a teacher's answers to the last bit."""
    tables: str | None = None
    """The folder in which ``auto`` keeps tables, side by side; by default ``tables`` beside the run's own folder."""
    precision: Literal["auto", "fp32", "bf16"] = AUTO
    """``auto``: fp32 where the student trains in fp32; else bf16 if a test at the start finds it right and faster."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images the teacher answers at once, whatever the student's batch; by default what suits the device."""
    shard: bool = False
    """With several processes, whether each keeps its rows of the weights alone (FSDP2), for a teacher too large for
    one device; it is asked in the step, and no table keeps its answers."""
    classes: ClassesConfig | None = None
    """By default the data's, in their order."""

    @field_validator("table", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, table: Any) -> Any:
        return {False: "off", True: AUTO}.get(table, table) if isinstance(table, bool) else table

    def network(self) -> ModelConfig:
        """Returns the network alone, as a student would be named."""
        return ModelConfig(**self.model_dump(include=set(ModelConfig.model_fields)))


class GradientsConfig(_Strict):
    """How label and teacher gradients are merged."""

    align: Align = "none"
    """``none`` adds both up; the others are in docs/methods.md (Gradient alignment)."""
    twin: bool = False
    """Whether both gradients come of one vectorised backward pass (``released``, ``backbone``, ``paper``): half the
    kernels on twice the data. Slower on a CPU; on a GPU it has not been measured. Several processes take two. Not with
    ``train.compile``."""


class OptimizerConfig(_Strict):
    """SGD or AdamW."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Search(0.25, 4.0, of_value=True)] = Field(default=0.05, gt=0)
    """The highest learning rate; ``train.schedule`` says the others."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    nesterov: bool = False
    """Likewise."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    weight_decay: float = Field(default=5.0e-4, ge=0)
    """Of all parameters, heads of terms included."""


class ScheduleConfig(_Strict):
    """The learning rate over time."""

    name: Literal["multistep", "cosine", "onecycle", "constant"] = "multistep"
    """``multistep`` is constant between its milestones; the others change at every step."""
    milestones: list[int] = [150, 180, 210]
    """Epochs after which the rate is multiplied by gamma: 150 means that epoch 151 is the first with the new rate."""
    gamma: float = Field(default=0.1, gt=0)
    """Of ``multistep``."""
    warmup_epochs: float = Field(default=0, ge=0)
    """The rate grows linearly over this many epochs, per step."""
    final_lr: float = Field(default=0.0, ge=0)
    """Where cosine and onecycle end."""


class DivergenceConfig(_Strict):
    """What is done about a training that goes wrong."""

    policy: Literal["stop", "skip", "rewind"] = "stop"
    """End the run; leave single steps out; or go back to the last good epoch with a lower learning rate."""
    explosion: float | None = Field(default=1000.0, gt=1)
    """A term explodes when it exceeds so many times its highest mean over 50 steps; null: never."""
    collapse_epochs: int | None = Field(default=3, ge=1)
    """Epochs in a row with nearly all predictions for one, wrong class that are a collapse; null: any number."""
    skips: int = Field(default=10, ge=1)
    """Steps an epoch that skip leaves out at most."""
    rewinds: int = Field(default=3, ge=1)
    """How often rewind goes back at most."""
    lr_factor: float = Field(default=0.5, gt=0, lt=1)
    """What the learning rate is multiplied by when rewind goes back."""


class TrainConfig(_Strict):
    """The training loop."""

    epochs: int = Field(default=240, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(default=64, ge=1)
    """Images a step, over all processes and parts."""
    drop_last: bool = False
    """Leave out an epoch's last batch if it has fewer images than the others (every epoch leaves out others)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` runs the networks under autocast; weights, heads and losses stay in float32."""
    channels_last: bool = True
    """Memory format of networks and images."""
    compile: bool = False
    """Compile the student with torch.compile; one that does not compile runs as it is, and the log says so. Not with
    ``gradients.align`` other than ``none`` and ``released``, nor where in some epoch no term reads the student's logits
    (``ab``, ``fsp``, ``fitnet_two_stage``)."""
    capture: bool = False
    """On a GPU, in one process: run a step's forward and backward passes as one CUDA graph (not measured yet)."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the weights; the average is what is measured and deployed."""
    clip_norm: float | None = Field(default=None, gt=0)
    """The largest norm of the gradient, over all parameters; longer ones are shortened."""
    accumulate: int = Field(default=1, ge=1)
    """Into how many parts a batch is cut to fit into memory."""
    sync_bn: bool = True
    """With several processes, whether batch norms see the images of all: then their number changes only rounding."""
    shard: bool = False
    """With several processes, whether each keeps its rows alone of the student's weights and of the optimiser's state
    (FSDP2); needs ``gradients.align: none``."""
    eval_every: int = Field(default=1, ge=1)
    """Epochs between two measurements of the held-out images (``data.val``)."""
    eval_batch_size: int = Field(default=500, ge=1)
    """Images at once in a measurement."""
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    """A checkpoint is written after every epoch, and within one after so many minutes."""
    seeds: list[int] | None = Field(default=None, min_length=1)
    """Train one student for each of these seeds, side by side on one order, one set of views and one teacher's answers
    (``data.seed``): the seeds vary initialisation and dropout."""
    diagnose_every: int = Field(default=50, ge=0)
    """Steps between two looks at gradient conflict, feature norm and agreement; 0 for none."""
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = []
    """Who else is told every epoch's numbers; each a package of its own (extra ``tracking``)."""
    keep_checkpoints: int | None = Field(default=None, ge=1)
    """Keep the measured weights after every so many epochs, for analyses over training."""
    device: str = AUTO
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto``: a GPU, if there is one."""
    threads: int | None = Field(default=None, ge=1)
    """Of torch on a CPU; by default as many as torch takes, and one for each of several workers."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    divergence: DivergenceConfig = DivergenceConfig()

    @field_validator("divergence", mode="before")
    @classmethod
    def _policy_alone(cls, value: Any) -> Any:
        return {"policy": value} if isinstance(value, str) else value


class ArmConfig(_Strict):
    """A list of terms in a study or a search, under a name."""

    name: str
    """Its name in tables and folders."""
    losses: list[dict[str, Any]]
    """As in the config."""
    gradients: GradientsConfig = GradientsConfig()

    @field_validator("name")
    @classmethod
    def _names_are_no_paths(cls, name: str) -> str:
        """The runs of an arm are in a folder of its name."""
        if not name.strip(". ") or "/" in name or "\\" in name:
            raise ValueError(f"the name of an arm must be a name without slashes, got {name!r}. Rename it")
        return name


class StudyConfig(_Strict):
    """What is compared: presets, or lists of terms under names of their own."""

    methods: list[str | ArmConfig] = ["kd", "dkd", "dhkd"]
    """Presets by name, or ``{name, losses, gradients}``; teacher and student alone are always there."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Each method is trained once for each of them."""
    metric: str | None = Field(default=None, pattern=r"^test/\w+$")
    """What runs are compared by (``test/ap50``); by default the first score of their task."""

    @field_validator("seeds")
    @classmethod
    def _seeds_are_of_one_run_each(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**64:
            raise ValueError(f"must be different numbers from 0 to 2**64 - 1, got {seeds}. Correct them")
        return seeds


class RangeConfig(_Strict):
    """Numbers from ``low`` to ``high``."""

    low: int | float
    """The smallest."""
    high: int | float
    """The largest."""
    log: bool = False
    """Whether factors count alike, not differences."""
    step: int | float | None = Field(default=None, gt=0)
    """Only every so many; whole numbers where all three are whole."""

    @model_validator(mode="after")
    def _runs_upwards(self) -> RangeConfig:
        if not self.low < self.high:
            raise ValueError(
                f"a range must have low below high, got {self.low:g} and {self.high:g}. Swap or correct them"
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(
                f"a range with log must have low above 0 and no step, got low {self.low:g} and step {self.step}. "
                "Leave out log, or correct it"
            )
        return self


def _flat_ranges(space: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, where in space.items():
        name = f"{prefix}{key}"
        if not isinstance(where, Mapping):
            flat[name] = where
        elif where.keys() & RangeConfig.model_fields.keys() or not where:
            try:
                flat[name] = RangeConfig.model_validate(where)
            except ValidationError as error:
                raise ValueError(f"tune.space: {name}{first_problem(error)}") from None
        else:
            flat |= _flat_ranges(where, f"{name}.")
    return flat


class TuneConfig(_Strict):
    """A search for settings, judged on images held out of train (``data.val``)."""

    trials: int = Field(default=30, ge=1)
    """Settings tried in all; a larger number later goes on from there."""
    methods: list[str | ArmConfig] | None = Field(default=None, min_length=1)
    """Presets, or lists of terms under names of their own, that race each other; by default the config's own terms."""
    space: dict[
        str, RangeConfig | Annotated[list[bool | int | float | str | None], Field(min_length=1)] | None
    ] = {}
    """``TERM.FIELD``, ``METHOD/TERM.FIELD`` or a key of the config: a range, a list of choices, or null to leave it as
    it is. What is not named is searched where its field says so."""
    pruner: Literal["halving", "median", "none"] = "halving"
    """Who is stopped early: all but the best third at a ninth and at a third of the epochs (successive halving), who
    is below the median from a ninth of the epochs on, or nobody. Nobody is stopped after half of them."""
    min_epochs: int | None = Field(default=None, ge=1)
    """Epochs before the first such decision; by default a ninth of all."""

    @field_validator("space", mode="before")
    @classmethod
    def _ranges(cls, space: Any) -> Any:
        """Takes ``{kd: {temperature: ...}}`` for ``{kd.temperature: ...}``, too, as dotted overrides make it."""
        return _flat_ranges(space, "") if isinstance(space, Mapping) else space


class Config(_Strict):
    """One job."""

    seed: int = Field(default=0, ge=0, lt=2**64)
    """Of initialisation, dropout and, unless ``data.seed`` says otherwise, of order and views."""
    data: DataConfig
    teacher: TeacherConfig | None = None
    teachers: dict[str, TeacherConfig] | None = None
    """Several teachers by name; a term names its own (``teacher: NAME``) or learns from their mean logits."""
    student: ModelConfig
    assistants: list[ModelConfig] = []
    """Networks between teacher and student: each learns from the one before (Mirzadeh et al., AAAI 2020)."""
    generations: int = Field(default=1, ge=1)
    """Self-distillation: so many students of one architecture, each teaching the next (Furlanello et al., 2018)."""
    losses: list[dict[str, Any]] = [{"name": "ce"}]
    """The terms (docs/methods.md): ``{name, weight, label, teacher}`` and the method's own numbers. ``method: NAME`` in
    their place stands for a published list."""
    gradients: GradientsConfig = GradientsConfig()
    train: TrainConfig = TrainConfig()
    study: StudyConfig | None = None
    tune: TuneConfig | None = None
    output: str = "runs/run"
    """Folder of the run."""

    @field_validator("losses")
    @classmethod
    def _losses_are_terms(cls, losses: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [term.spec() for term in build_terms(losses)]

    @model_validator(mode="after")
    def _seeds_are_of_one_job(self) -> Config:
        seeds = self.train.seeds
        if seeds is not None and (len(set(seeds)) < len(seeds) or min(seeds) < 0):
            raise ValueError(f"train.seeds must be different numbers from 0 up, got {seeds}. Correct them")
        alone = [name for name in self.train.trackers if name != "tensorboard"]
        if seeds is not None and alone:
            raise ValueError(
                f"train.trackers must be tensorboard where train.seeds is given, got {alone[0]}, which follows one run "
                "at a time. Leave it out, or run one seed at a time"
            )
        if seeds is not None and (self.assistants or self.generations > 1):
            raise ValueError(
                "train.seeds must not stand beside assistants or generations, got both. Run one seed at a time"
            )
        return self

    @model_validator(mode="after")
    def _compiled_or_in_parts(self) -> Config:
        if self.train.compile and self.gradients.align not in ("none", "released"):
            raise ValueError(
                f"gradients.align must be none or released where train.compile is on, got {self.gradients.align}. "
                "Turn train.compile off, or change gradients.align"
            )
        return self

    @model_validator(mode="after")
    def _one_or_several_teachers(self) -> Config:
        if self.teacher is not None and self.teachers is not None:
            raise ValueError("teacher and teachers must not both be given, got both. Keep one of them")
        for name in self.teachers or {}:
            if name == "student" or not name or "." in name:
                raise ValueError(
                    f"teachers must have names without dots other than 'student', got {name!r}. Rename it"
                )
        if self.teachers is not None and (self.assistants or self.generations > 1):
            raise ValueError(
                "assistants and generations must begin with one teacher or none, got teachers. Give teacher, or leave "
                "them out"
            )
        return self

    @property
    def guides(self) -> dict[str, TeacherConfig]:
        """All teachers by name; a single one is called ``teacher``."""
        return {"teacher": self.teacher} if self.teacher is not None else dict(self.teachers or {})

    def guide_key(self, name: str) -> str:
        """Returns the dotted key under which a teacher of :attr:`guides` stands."""
        return "teacher" if self.teacher is not None else f"teachers.{name}"

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        """Replaces ``method: NAME`` by its losses, and by its alignment where none is given."""
        if not isinstance(values, Mapping) or "method" not in values:
            return values
        values = dict(values)
        name = values.pop("method")
        if "losses" in values:
            raise ValueError("method and losses must not both be given, got both. Keep one of them")
        chosen = preset(str(name), *(_model_at(values, key) for key in ("data", "teacher", "student")))
        given = values.get("gradients") or {}
        gradients = {"align": chosen.align, **given} if isinstance(given, Mapping) else given
        return {**values, "gradients": gradients, "losses": list(chosen.losses)}

    def yaml(self) -> str:
        """Returns the YAML that rebuilds this config, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)

    def replaced(self, **changes: Any) -> Config:
        """Returns a validated copy with dotted keys changed, e.g. ``replaced(**{"train.device": "cpu"})``."""
        return build_config(self.model_dump(mode="json"), changes)


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Returns a config from a YAML file, a mapping, or another config, with dotted overrides applied.

    ``extends: other.yaml`` in a file or a mapping takes everything from there that is not given; the name is relative
    to the file, of a mapping to the working directory.

    Raises:
        ValueError: one line that says where (file and line), what must hold, what was got, and what to do.
    """
    if isinstance(source, Config):
        return source.replaced(**(overrides or {}))
    if isinstance(source, Mapping):
        return build_config(_extended(source, Path()), overrides or {})
    path = Path(source)
    values = _read(path)
    try:
        return build_config(values, overrides or {})
    except ConfigError as error:
        line = _line_of(path, error.keys)
        raise ValueError(f"{path}{f', line {line}' if line else ''}: {error}") from None


class ConfigError(ValueError):
    """A config that does not hold; ``keys`` is the path of the entry."""

    def __init__(self, message: str, keys: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.keys = keys


def build_config(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
    """Returns the validated config of plain values.

    Raises:
        ConfigError: with the path of the first entry that is wrong.
    """
    merged = _copy(values)
    for key, value in overrides.items():
        _set(merged, key, value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _as_config_error(error) from None


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """Returns ``{"train.epochs": 5}`` for ``["train.epochs=5"]``; values are read as YAML.

    Raises:
        ValueError: an argument without ``=`` or with a value that is no YAML.
    """
    overrides = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise ValueError(f"overrides must look like key=value, got {argument!r}. Example: train.epochs=5")
        try:
            overrides[key] = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError:
            raise ValueError(f"the value of an override must be YAML, got {argument!r}. Quote it") from None
    return overrides


_LEFT_OPEN = re.compile(
    r"data\.(augment|augment\.pad|mean|std|workers)|train\.threads|losses\.stages"
    r"|(student|teacher|teachers\.[^.]+)\.(mean|std|image_size|channels)"
)
"""Where ``null`` leaves a choice to the library; elsewhere it is the value itself: off, or all."""


def agrees(given: Any, resolved: Any, path: str = "") -> bool:
    """Returns whether a config is the same as one already resolved: what was left open may have any value there.

    Args:
        given: plain values.
        resolved: likewise.
        path: the dotted key under which they stand, without the positions in lists.
    """
    if given == AUTO or (given is None and resolved is None):
        return True
    if given is None:
        views = path == "data.augment" and isinstance(resolved, Mapping) and AugmentConfig(**resolved).endless
        return _LEFT_OPEN.fullmatch(path) is not None and not views  # such views are nobody's default
    if isinstance(given, Mapping) and isinstance(resolved, Mapping):
        return given.keys() == resolved.keys() and all(
            agrees(given[k], resolved[k], f"{path}.{k}" if path else str(k)) for k in given
        )
    if isinstance(given, (list, tuple)) and isinstance(resolved, (list, tuple)):
        return len(given) == len(resolved) and all(
            agrees(g, r, path) for g, r in zip(given, resolved, strict=True)
        )
    return given == resolved


def differences(given: Any, resolved: Any, prefix: str = "") -> list[str]:
    """Returns the dotted keys in which two dumped configs do not agree."""
    if isinstance(given, Mapping) and isinstance(resolved, Mapping):
        keys = sorted({*given, *resolved})
        return [d for k in keys for d in differences(given.get(k), resolved.get(k), f"{prefix}{k}.")]
    key = prefix.rstrip(".")
    return [] if agrees(given, resolved, key) else [key]


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Reads one YAML file and what it extends."""
    if not path.is_file():
        if path.is_dir():
            more = f", or continue a run with: understudy resume {path}" * (path / "config.yaml").is_file()
            raise ValueError(f"a config must be a YAML file, got the folder {path}. Name the file{more}")
        raise ValueError(
            f"a config must be a YAML file, got {path}, which is not there. Write one with: understudy init"
        )
    if path.resolve() in seen:
        raise ValueError(f"extends must not run in a circle, got {path} twice. Remove one extends:")
    try:
        text = path.read_text(encoding="utf-8")
        if _unfolded(yaml.compose(text, Loader=yaml.SafeLoader), {}) > MOST_ENTRIES:
            raise ValueError(
                f"{path}: a config must have at most {MOST_ENTRIES} entries, got more once its aliases are unfolded. "
                "Write it without them"
            )
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not text"
        raise ValueError(
            f"{path}{place}: a config must be valid YAML, got: {problem}. Correct the file"
        ) from None
    except RecursionError:
        raise ValueError(
            f"{path}: a config must be a few levels deep, got nesting without end. Correct the file"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: a config must be a mapping of keys, got {type(values).__name__}. See understudy init"
        )
    return _extended(values, path.parent, (*seen, path.resolve()))


def _extended(values: Mapping[str, Any], folder: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Returns plain values over those of the file that they extend, which is named relative to ``folder``."""
    own = {key: value for key, value in values.items() if key != "extends"}
    parent = values.get("extends")
    return own if parent is None else _merge(_read(folder / str(parent), seen), own)


def _unfolded(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Returns the number of nodes under one, aliases counted as often as they are used; infinite for a circle."""
    if isinstance(node, yaml.CollectionNode) and id(node) not in known:
        known[id(node)] = math.inf  # until it is known: it must not lie within itself
        pairs = isinstance(node, yaml.MappingNode)
        children = [child for pair in node.value for child in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_unfolded(child, known) for child in children)
    return known.get(id(node), 1)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice and reads 1e-3 as a number, as people mean it."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands twice in one mapping", node.start_mark
            )
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    value = loader.construct_scalar(node)
    return value if node.style else _number(value)  # a quoted number stays text


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG, _scalar)


def _number(text: str) -> Any:
    """Returns ``1e-3`` as a number, which YAML 1.1 reads as a string."""
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", text):
        return float(text)
    return text


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets ``train.epochs`` or ``losses.1.weight`` in place."""
    *path, last = dotted.split(".")
    place: Any = values
    for key in path:
        if isinstance(place, list) and key.isdigit() and int(key) < len(place):
            place = place[int(key)]
        elif isinstance(place, dict):
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
        else:
            raise ConfigError(
                f"override {dotted!r} must name a place in the config, got nothing at {key!r}. Check the path"
            )
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(
            f"override {dotted!r} must name a place in the config, got nothing at {last!r}. Check the path"
        )


def _model_at(values: Mapping[str, Any], key: str) -> Any:
    """Returns the name of the data set or model in plain values, if it is there."""
    entry = values.get(key)
    name = entry.get("name" if key == "data" else "model") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) else None


def _copy(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _copy(value) for key, value in values.items()}
    return [_copy(v) for v in values] if isinstance(values, (list, tuple)) else values


def _as_config_error(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    # an entry of several kinds (an arm: a name or a mapping) has complaints of each: our own words say most, and those
    # on what stands in a mapping more than that it is no name
    entry = first["loc"][:-1]
    others = [e for e in error.errors() if e["loc"][: len(entry)] == entry]
    own = (e for e in others if e["type"] == "value_error")
    inside = (e for e in others if isinstance(first["input"], Mapping) and len(e["loc"]) > len(first["loc"]))
    problem = next(own, None) or next(inside, first)
    if problem["type"] == "missing":  # what stands in its place, if something does
        beside = (e for e in error.errors() if e["loc"][:-1] == problem["loc"][:-1])
        problem = next((e for e in beside if e["type"] == "extra_forbidden"), problem)
    keys, _ = _walked(problem["loc"])
    dotted = ".".join(map(str, keys))
    if problem["type"] == "extra_forbidden":
        return ConfigError(f"unknown key {dotted!r}. {_meant(keys)}", keys)
    if problem["type"] == "missing":
        return ConfigError(f"{dotted} must be given, got nothing. Add it", keys[:-1])
    text = said_of(problem, keys).lstrip(".")
    if problem["type"] in _KINDS:
        got = "nothing" if problem["input"] is None else repr(problem["input"])
        text = f"{dotted} must be {_KINDS[problem['type']]}, got {got}. {_instead(keys, problem['input'])}"
    elif problem["type"] == "value_error":
        text = problem["msg"].removeprefix("Value error, ")
        if term := re.match(r"losses\[(\d+)\]", text):
            keys = ("losses", int(term[1]))
    return ConfigError(text, keys)


_KINDS = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "finite_number": "a finite number",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "a mapping of keys"),
}
"""What must hold where pydantic's own words are of Python, by the kind of its complaint."""


def _meant(keys: tuple[str | int, ...]) -> str:
    """Returns the end of the message on an unknown key: where one of this name stands, or the nearest name here."""
    name = str(keys[-1])
    if keys == ("extends",):
        return "It belongs into the file, or the mapping, itself"
    elsewhere = [path for path in _paths(Config, "") if path.rpartition(".")[2] == name]
    if elsewhere:
        return f"Did you mean {' or '.join(map(repr, elsewhere))}?"
    _, kinds = _walked(keys[:-1])
    fields = [field for kind in kinds if _is_section(kind) for field in kind.model_fields]
    return did_you_mean(name, [*fields, *(["method", "extends"] if Config in kinds else [])])


def _paths(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yields the dotted path of every key of a section and of the sections in it."""
    for key, field in model.model_fields.items():
        yield f"{prefix}{key}"
        for kind in getattr(field.annotation, "__args__", (field.annotation,)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _paths(kind, f"{prefix}{key}.")


def _instead(keys: tuple[str | int, ...], value: Any) -> str:
    """Returns what to write where a name stands in the place of a mapping that has one."""
    dotted = ".".join(map(str, keys))
    names = [key for key in ("name", "model") if f"{dotted}.{key}" in _paths(Config, "")]
    return (
        f"Write {dotted}: {{{names[0]}: {value}}}"
        if names and isinstance(value, str)
        else "Correct the value"
    )


def _walked(place: Iterable[str | int]) -> tuple[tuple[str | int, ...], list[Any]]:
    """Returns the keys of a place in a config, without pydantic's names of kinds, and what types may stand there."""
    keys: list[str | int] = []
    kinds: list[Any] = [Config]
    for part in place:
        inside = [found for kind in kinds for found in _kinds_inside(kind, part)]
        if not inside and len(kinds) > 1:  # of several kinds that may stand here, the name of one
            kinds = [kind for kind in kinds if getattr(kind, "__name__", None) == part] or kinds
            continue
        keys.append(part)
        kinds = inside
    return tuple(keys), kinds


def _kinds_inside(kind: Any, key: str | int) -> list[Any]:
    """Returns the types of an entry of a section, a mapping or a list."""
    if _is_section(kind):
        field = kind.model_fields.get(str(key))
        return [] if field is None else _alternatives(field.annotation)
    if isinstance(key, int) == (get_origin(kind) is list) and get_origin(kind) in (list, dict):
        return _alternatives(get_args(kind)[-1])
    return []


def _alternatives(annotation: Any) -> list[Any]:
    """Returns the types that an annotation allows, ``None`` left out."""
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [option for option in options if option is not NoneType]


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _line_of(path: Path, keys: tuple[str | int, ...]) -> int | None:
    """Returns the 1-based line of an entry, or of its nearest parent, in the file."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
    return line
