"""Sets of Hugging Face's ``datasets``: saved in a folder, or by their name on the hub where that is asked for."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from understudy.data.decode import Source
from understudy.data.images import ImageSet, numbered
from understudy.data.multilabel import MultiLabelSet, Numbers, from_numbers
from understudy.data.undecoded import Form, Resident, read_images
from understudy.words import first_line


def read_hugging_face(
    root: str | Path,
    train: str = "train",
    test: str | Literal[False] | None = None,
    download: bool = False,
    image_column: str = "image",
    label_column: str = "label",
    image_size: int | None = None,
    channels: int = 3,
    max_gib: float = 8.0,
    resident: Resident = "auto",
    workers: int | None = None,
    resize: int | None = None,
) -> tuple[ImageSet, ImageSet | None]:
    """Returns splits of a data set that ``datasets`` can read.

    Streaming is not supported: order and views of an epoch are a function of the images' positions, which a stream
    does not have.

    Args:
        root: a folder that ``save_to_disk`` wrote, or a name on the hub (``owner/name`` or ``owner/name:config``).
        train: name of the split to train on.
        test: name of the split to measure on; ``None``: ``test`` or ``validation`` if there is one; ``False``: none.
        download: fetch what is not in the cache; nothing is fetched otherwise.
        image_column: of the images.
        label_column: of the class numbers, or of lists of them: then an image may have several classes.
        image_size: side in pixels that all images are scaled and cropped to; ``None``: all must have one size.
        channels: 1 for grey, 3 for colour.
        max_gib: memory the decoded images of one split may take, in GiB.
        resident: whether they are decoded into memory; ``auto``: if they fit.
        workers: processes that decode them otherwise, by default one a processor.
        resize: pixels that the shorter side is scaled to before the square is cut out; by default ``image_size``.

    Raises:
        ValueError: ``datasets`` is not installed; there is no such folder, and the hub does not answer; a split or
            column is missing, or both splits are one; they number their classes otherwise; a label is no class number;
            an image cannot be read; sizes differ; the images do not fit.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise ValueError(
            "data set hf must have datasets installed, got none. Install the extra: pip install '.[hf]'"
        ) from None
    with _quiet(datasets):
        splits = _open(datasets, str(root), download)
        names = {"train": train}
        others = (name for name in ("test", "validation") if name in splits and name != train)
        found_test = None if test is False else test or next(others, None)
        if found_test == train:
            raise ValueError(
                f"data.train and data.test must be two splits, got {train} for both. Choose another"
            )
        if found_test is not None:
            names["test"] = found_test
        for option, name in names.items():
            if name not in splits:
                raise ValueError(
                    f"data.{option} must be a split of {root}, got {name!r}. Choose from: {', '.join(splits)}"
                )
            _check_columns(splits[name], f"{root}/{name}", (image_column, label_column))
        form = Form(image_size, channels, max_gib, resident, workers, resize)
        labels = {
            option: _labels(splits[name], label_column, f"{root}/{name}") for option, name in names.items()
        }
        classes = _classes(splits[train], label_column, labels["train"], f"{root}/{train}")
        ours, theirs = (_names(splits[name], label_column) for name in (train, names.get("test", train)))
        if ours is not None and theirs is not None and list(theirs) != list(ours):
            raise ValueError(
                f"splits {train} and {names['test']} of {root} must number the same classes alike, got others. Encode "
                "the labels of all splits together"
            )
        sets = {
            option: _read(
                datasets,
                splits[name],
                labels[option],
                classes,
                f"{root}/{name}",
                image_column,
                form,
                unlabelled=option == "train",
            )
            for option, name in names.items()
        }
    return sets["train"], sets.get("test")


def _open(datasets: Any, root: str, download: bool) -> Any:
    folder = Path(root).expanduser()
    try:
        if folder.is_dir():
            found = datasets.load_from_disk(str(folder))
            return found if isinstance(found, dict) else {"train": found}
        name, _, config = root.partition(":")
        local = datasets.DownloadConfig(local_files_only=not download)
        return datasets.load_dataset(name, config or None, download_config=local)
    except Exception as error:  # a hub that does not answer makes datasets raise in many ways
        reason = first_line(error).rstrip(".")
        advice = (
            "Check the name and the network, or give a folder written by save_to_disk"
            if download
            else "Set data.download=true to fetch it, or give a folder written by save_to_disk"
        )
        raise ValueError(
            f"data.root must be a data set on this machine, got {root}: {reason}. {advice}"
        ) from error


def _check_columns(split: Any, name: str, columns: tuple[str, str]) -> None:
    for option, column in zip(("image_column", "label_column"), columns, strict=True):
        if column not in split.column_names:
            raise ValueError(
                f"data.{option} must be a column of {name}, got {column!r}. "
                f"Choose from: {', '.join(split.column_names)}"
            )


def _labels(split: Any, column: str, name: str) -> Tensor | Numbers:
    """Returns of every image its class's number, or the list of those of its classes.

    Raises:
        ValueError: a label is no class number, nor a list of them.
    """
    labels = list(split.with_format(None)[column][:])
    several = any(isinstance(label, list) for label in labels)
    wrong = [not (_are_numbers(label) if several else _is_number(label)) for label in labels]
    if any(wrong):
        row = wrong.index(True)
        raise ValueError(
            f"labels of {name} must be class numbers in column {column!r}, got {labels[row]!r} in row {row}. Encode "
            "them with datasets (class_encode_column), or set data.label_column"
        )
    return labels if several else torch.tensor(labels)


def _are_numbers(labels: object) -> bool:
    return labels is None or (isinstance(labels, list) and all(map(_is_number, labels)))


def _is_number(label: object) -> bool:
    return isinstance(label, int) and not isinstance(label, bool)


def _classes(split: Any, column: str, labels: Tensor | Numbers, name: str) -> Sequence[str]:
    """Returns the names of the classes, by default their numbers."""
    names = _names(split, column)
    if names is not None:
        return names
    numbers = (
        labels.tolist() if isinstance(labels, Tensor) else [n for listed in labels for n in listed or ()]
    )
    return numbered(max(numbers, default=0), name)


def _names(split: Any, column: str) -> Sequence[str] | None:
    """Returns the names of the classes, where the split has some."""
    feature = split.features[column]
    feature = (
        feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    )  # of lists: their items
    return getattr(feature, "names", None)


def _read(
    datasets: Any,
    split: Any,
    labels: Tensor | Numbers,
    classes: Sequence[str],
    name: str,
    image: str,
    form: Form,
    *,
    unlabelled: bool,
) -> ImageSet:
    rows = _Rows(split.cast_column(image, datasets.Image(decode=False)), image, name)
    images = read_images(rows, name, form)
    if isinstance(labels, Tensor):
        return ImageSet.read(images, labels, classes, name)
    numbers = from_numbers(labels, len(classes), name)
    return MultiLabelSet.read(images, numbers, classes, name, unlabelled=unlabelled)


class _Rows:
    """Encoded images of a split, which lies in a file that is mapped into memory."""

    def __init__(self, split: Any, column: str, name: str) -> None:
        self._split, self._column, self._name = split, column, name

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, position: int) -> Source:
        image = self._split[position][self._column]
        if image is None:
            raise ValueError(f"{self.name(position)} must have an image, got none. Take the row out")
        return image["bytes"] if image["bytes"] is not None else Path(image["path"])

    def name(self, position: int) -> str:
        return f"{self._name} row {position}"


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keeps ``datasets`` and its hub client from printing; what was set before comes back."""
    hub = logging.getLogger("huggingface_hub")
    level, bars = hub.level, datasets.utils.logging.is_progress_bar_enabled()
    hub.setLevel(logging.ERROR)
    datasets.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(level)
        if bars:
            datasets.utils.logging.enable_progress_bar()
