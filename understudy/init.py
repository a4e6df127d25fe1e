"""Writes a commented config from a few questions or flags."""

from __future__ import annotations

import inspect
import io
import shlex
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
import yaml
from PIL import Image

from understudy.config import load_config
from understudy.data import DATASETS
from understudy.files import write_text
from understudy.methods.presets import PRESETS
from understudy.words import did_you_mean

_PLACES = {"train": "path/to/train", "test": "path/to/test", "root": "path/to/data"}
_PER_PIXEL_OR_BOX = {
    "camvid": "segmentation",
    "cityscapes": "segmentation",
    "coco": "detection",
    "maskfolder": "segmentation",
    "voc": "segmentation",
}
"""Sets whose configs have other networks and terms, and the page that begins with one."""
_NONE = "none"
_TRAINED_HERE = "runs/teacher/student.safetensors"
_LOOKED_AT = 100  # images whose sizes are read
_SMALL = 64  # pixels a side up to which the CIFAR networks are the usual ones
_USUAL = 224  # pixels a side of ImageNet's networks

Answers = dict[str, Any]


def _teacher(answers: Answers) -> str:
    return {"digits": "cnn_small"}.get(
        answers["data"], "torchvision/resnet50" if _large(answers) else "resnet32x4"
    )


def _student(answers: Answers) -> str:
    return {"digits": "cnn_tiny"}.get(
        answers["data"], "torchvision/resnet18" if _large(answers) else "resnet8x4"
    )


def _large(answers: Answers) -> bool:
    large = answers["data"] in ("imagenet", "flowers102", "food101", "oxford_pets", "stl10")
    return large or (answers.get("image_size") or 0) > _SMALL


DEFAULTS: dict[str, Callable[[Answers], Any]] = {
    "data": lambda answers: "imagefolder",
    "root": lambda answers: _PLACES["root"],
    "train": lambda answers: _PLACES["train"],
    "test": lambda answers: _PLACES["test"],
    "image_size": lambda answers: suggested_size(answers["data"], answers.get("train")),
    "teacher": _teacher,
    "weights": lambda answers: _TRAINED_HERE,
    "student": _student,
    "method": lambda answers: "dhkd",
    "epochs": lambda answers: 60,
}
"""What is taken where nothing is said, given the answers before."""

QUESTIONS = {
    "data": "Data set ({data})",
    "root": "Folder of the data set",
    "train": "Training images (a folder with one folder per class, a parquet file, or a table)",
    "test": "Test images (none: only those held out of the training images are measured)",
    "image_size": "Scale all images to a square of this many pixels a side (0: leave them as they are)",
    "teacher": "Teacher's model",
    "weights": "File with the teacher's weights (the default is what `understudy train` will write)",
    "student": "Student's model",
    "method": "Method ({method})",
    "epochs": "Epochs",
}

TEMPLATE = """\
{commands}
seed: 0
data:
  name: {data}{files}
  {size}
  val: 0.1                # share of the training images held out; whatever is chosen is chosen on them
  # augment: {{pad: 4, randaugment: {{ops: 2, magnitude: 9}}}}   # or {{name: resized_crop}}, {{autoaugment: imagenet}}
  # mix: {{name: mixup, alpha: 0.2}}                           # or cutmix
  # balance: 1.0          # show rare classes as often as the others
  # label_noise: {{share: 0.2, kind: symmetric}}               # wrong labels on purpose
  # resident: false       # decode images batch by batch; by default only if they do not fit into memory
teacher:
  model: {teacher}
  weights: {weights}
  # mean: [0.485, 0.456, 0.406]   # the normalisation it was trained with, if its file does not say (a .pth of your own)
  # std: [0.229, 0.224, 0.225]
student:
  model: {student}
  # pretrained: true      # start from weights of torchvision, timm or Hugging Face, which are downloaded
method: {method}              # see: understudy list presets; or write the terms out under losses:
train:
  epochs: {epochs}
  batch_size: 64
  optimizer: {{name: sgd, lr: 0.05, momentum: 0.9, weight_decay: 5.0e-4}}
  schedule: {{name: cosine, warmup_epochs: 1}}
output: runs/{method}
"""


def write_config(path: Path, answers: Mapping[str, Any], *, ask: bool) -> None:
    """Writes a config that is valid, with comments on what may be changed next.

    Args:
        path: file to write; never overwritten.
        answers: what is known already, by the keys of ``DEFAULTS``.
        ask: whether to ask for the rest on the terminal; otherwise defaults are taken.

    Raises:
        ValueError: the file exists, or an answer names something that does not, or that the data set does not take.
    """
    if path.exists():
        raise ValueError(f"init must not overwrite a file, got {path}. Choose another name")
    chosen: Answers = {}
    for key, default in DEFAULTS.items():
        if key in answers:
            value = answers[key]
        elif key in _PLACES and key not in _needed(chosen["data"]):
            continue
        elif key == "test" and "train" in answers and not ask:
            value = _NONE  # whoever names the one and not the other has no other
        else:
            value = _asked(key, default(chosen), ask)
        _check(key, value, chosen)
        chosen[key] = value
    text = TEMPLATE.format(
        **{key: _scalar(value) for key, value in chosen.items()},
        commands=_commands(path, chosen),
        files="".join(f"\n  {_place_line(key, chosen[key])}" for key in _PLACES if key in chosen),
        size=_size_line(chosen["image_size"]),
    )
    load_config(yaml.safe_load(text))
    write_text(path, text)


def suggested_size(data: str, train: str | None) -> int | None:
    """Returns the side in pixels to which images should be scaled, ``None`` if they have one size and are not large.

    Looks at the sizes of the first images of a folder or parquet file: the median of their shorter sides, at most
    224, a multiple of 8.
    """
    if data in ("flowers102", "food101", "oxford_pets"):  # photos of all sizes
        return _USUAL
    sizes = list(_sizes(data, train))
    if not sizes or (len(set(sizes)) == 1 and max(sizes[0]) <= _USUAL):
        return None
    side = median(min(size) for size in sizes)
    return max(32, min(_USUAL, int(side) // 8 * 8))


def _sizes(data: str, train: str | None) -> Iterator[tuple[int, int]]:
    """Yields width and height of some images; of what cannot be read nothing, the reader will say why."""
    place = Path(train or "").expanduser()
    if data == "imagefolder" and place.is_dir():
        known = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        found = (file for file in place.rglob("*") if file.suffix.lower() in known)
    elif data == "parquet" and place.is_file():
        found = map(io.BytesIO, _encoded(place))
    else:
        return
    for source in islice(found, _LOOKED_AT):
        try:
            with Image.open(source) as image:
                yield image.size
        except OSError:
            continue


def _encoded(path: Path) -> Iterator[bytes]:
    """Yields the first images of a parquet file whose column has the usual name."""
    try:
        rows = next(pq.ParquetFile(path).iter_batches(_LOOKED_AT, columns=["image"]), None)
    except (OSError, pa.ArrowException):
        return
    for row in rows.to_pylist() if rows is not None else ():
        image = row.get("image")
        content = image.get("bytes") if isinstance(image, dict) else image
        if isinstance(content, bytes):
            yield content


def _needed(data: str) -> list[str]:
    """Returns which places a data set must be given; a test part goes with a training part."""
    parameters = inspect.signature(DATASETS[data]).parameters
    needed = [
        key
        for key in ("root", "train")
        if key in parameters and parameters[key].default is inspect.Parameter.empty
    ]
    return [*needed, "test"] if "train" in needed else needed


def _asked(key: str, default: Any, ask: bool) -> Any:
    if not ask:
        return default
    whole = key in ("image_size", "epochs")
    question = QUESTIONS[key].format(data=", ".join(sorted(_classifying())), method=", ".join(PRESETS))
    return typer.prompt(question, default=default if default is not None else 0, type=int if whole else str)


def _classifying() -> set[str]:
    return DATASETS.keys() - _PER_PIXEL_OR_BOX.keys()


def _check(key: str, value: Any, chosen: Answers) -> None:
    if key == "data" and value in _PER_PIXEL_OR_BOX:
        raise ValueError(
            f"init must be given a data set with one class per image, got {value}. Begin with the config in "
            f"docs/{_PER_PIXEL_OR_BOX[value]}.md"
        )
    choices = {"data": _classifying(), "method": PRESETS.keys()}.get(key)
    if choices is not None and value not in choices:
        raise ValueError(f"{key} must be known, got {value!r}. {did_you_mean(str(value), choices)}")
    if key in _PLACES and key not in inspect.signature(DATASETS[chosen["data"]]).parameters:
        raise ValueError(
            f"{key} must go with a data set that takes it, got data {chosen['data']}. Leave it out, or choose "
            "imagefolder, parquet or manifest"
        )


def _commands(path: Path, chosen: Answers) -> str:
    """Returns the first lines of the config: what to do with it."""
    file, teacher = shlex.quote(str(path)), shlex.quote(str(chosen["teacher"]))
    lines = []
    if chosen["weights"] == _TRAINED_HERE:
        published = teacher.startswith(("torchvision/", "timm/", "hf/"))
        lines += [
            "The teacher first:",
            f"  understudy train {file} student.model={teacher} output=runs/teacher",
        ]
        lines += [
            "  (student.pretrained=true starts it from published weights, which are downloaded)"
        ] * published
    lines += ["Is everything in order? Then the student under the teacher, and what it says of an image:"]
    lines += [f"  understudy doctor {file}", f"  understudy distill {file}"]
    lines += [f"  understudy predict runs/{chosen['method']} some/image.png"]
    return "\n".join(f"# {line}" for line in lines)


def _place_line(key: str, place: str) -> str:
    if key == "test" and place == _NONE:
        return "# test: path/to/test    # without test images those held out (val) are all that is measured"
    return f"{key}: {_scalar(place)}"


def _size_line(size: int | None) -> str:
    if size:
        return (
            f"image_size: {size}".ljust(24) + "# all images are scaled and cropped to a square of this side"
        )
    return "# image_size: 224       # scale and crop all images to one square; needed if their sizes differ"


def _scalar(value: Any) -> str:
    """Returns a value as YAML has it within a line, quoted where it must be."""
    return (
        yaml.safe_dump(value, allow_unicode=True, width=float("inf")).removesuffix("\n").removesuffix("\n...")
    )
