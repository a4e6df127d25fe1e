"""Parquet files in the Hugging Face image schema: encoded images in one column, class numbers in another."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from understudy.data.images import ImageSet, numbered
from understudy.data.multilabel import MultiLabelSet, Numbers, from_numbers
from understudy.data.undecoded import Form, Resident, leave_encoded

Paths: TypeAlias = str | Path | Sequence[str | Path]
"""A file, a folder of ``*.parquet``, a pattern with ``*``, or a list of these."""

_ROWS = 256  # encoded images held at once


def read_parquet(
    train: Paths,
    test: Paths | None = None,
    image_column: str = "image",
    label_column: str = "label",
    image_size: int | None = None,
    channels: int = 3,
    max_gib: float = 8.0,
    resident: Resident = "auto",
    workers: int | None = None,
    resize: int | None = None,
) -> tuple[ImageSet, ImageSet | None]:
    """Returns the images of Parquet files, in the order of files and rows.

    The files of a folder or pattern are sorted by name. The image column holds the encoded bytes, or
    a struct with a field ``bytes`` (and perhaps ``path``). Class names come from the feature ``ClassLabel``
    in the schema's metadata (key ``huggingface``); without it the classes are called by their numbers.

    Images may have several classes each: a column of lists of class numbers. Whatever is not listed is not there; a
    training image without a list (null) is not labelled.

    Args:
        train: the training part: a file, a folder, a pattern such as ``data/train-*.parquet``, or a list.
        test: the test part, likewise; no file may be in both.
        image_column: name of the column of images.
        label_column: name of the column of class numbers, or of lists of them.
        image_size: side in pixels that all images are scaled and cropped to; ``None``: all must have one
            size.
        channels: 1 for grey, 3 for colour.
        max_gib: memory the decoded images of one part may take, in GiB.
        resident: whether they are decoded into memory; ``auto``: if they fit. Otherwise every image costs reading the
            row group it is in, so row groups should be small (about 100 images).
        workers: processes that decode them then, by default one a processor.
        resize: pixels that the shorter side is scaled to before the square is cut out; by default ``image_size``.

    Raises:
        ValueError: a path is missing or is no Parquet file; a column is missing or of the wrong type; a label
            or an image is missing or wrong; class names contradict; sizes differ; the images do not fit.
    """
    parts = [[_Shard.open(p, image_column, label_column) for p in _files(train, "train")]]
    if test is not None:
        parts.append([_Shard.open(p, image_column, label_column) for p in _files(test, "test")])
        shared = {s.path.resolve() for s in parts[0]} & {s.path.resolve() for s in parts[1]}
        if shared:
            raise ValueError(
                f"data.train and data.test must share no file, got {min(shared)} in both. "
                "Name the files of each"
            )
    if len({shard.several for part in parts for shard in part}) > 1:
        raise ValueError(
            f"data.label_column must hold numbers in all files or lists in all, got {label_column!r} with both. "
            "Use files of one data set"
        )
    classes = _classes(parts)
    form = Form(image_size, channels, max_gib, resident, workers, resize)
    sets = [_read(part, image_column, classes, form, unlabelled=part is parts[0]) for part in parts]
    return sets[0], sets[1] if test is not None else None


@dataclass(frozen=True, slots=True)
class _Shard:
    path: Path
    labels: Tensor | Numbers
    """Of every image its class's number, or the list of those of its classes."""
    names: tuple[str, ...] | None

    @property
    def several(self) -> bool:
        """Whether an image may have several classes."""
        return not isinstance(self.labels, Tensor)

    @property
    def highest(self) -> int:
        """The highest class number, -1 if there is none."""
        if isinstance(self.labels, Tensor):
            return int(self.labels.max()) if len(self.labels) else -1
        return max(
            (number for numbers in self.labels for number in numbers or () if number is not None), default=-1
        )

    @classmethod
    def open(cls, path: Path, image_column: str, label_column: str) -> _Shard:
        """Reads all but the images, so that a mistake is found before the long work of decoding."""
        with _readable(path):
            schema = pq.read_schema(path)
        for option, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in schema.names:
                raise ValueError(
                    f"{path} must have a column {column!r}, got {', '.join(schema.names)}. "
                    f"Name the column with data.{option}"
                )
        kind = schema.field(image_column).type
        if pa.types.is_struct(kind):
            kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ValueError(
                f"column {image_column!r} of {path} must be binary or a struct with binary bytes, got "
                f"{kind}. Write the encoded images into it"
            )
        kind = schema.field(label_column).type
        several = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not pa.types.is_integer(kind.value_type if several else kind):
            raise ValueError(
                f"column {label_column!r} of {path} must be of integers, or of lists of them, got {kind}. "
                "Number the classes from 0"
            )
        with _readable(path):
            labels = pq.read_table(path, columns=[label_column]).column(0)
        names = _names(path, schema.metadata, label_column)
        if several:
            return cls(path, labels.to_pylist(), names)
        if labels.null_count:
            row = labels.is_null().to_pylist().index(True)
            raise ValueError(
                f"{path} must have a label in every row, got none in row {row}. "
                "Fill it in or take the row out"
            )
        return cls(path, torch.from_numpy(labels.to_numpy().astype(np.int64)), names)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} must be a whole Parquet file, got: {reason}. Fetch or write it again"
        ) from error


def _names(path: Path, metadata: dict[bytes, bytes] | None, label_column: str) -> tuple[str, ...] | None:
    """Returns the class names that the ``datasets`` library wrote into the schema, if it did."""
    if not metadata or b"huggingface" not in metadata:
        return None
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][label_column]
        feature = (
            feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        )  # of lists: their items
        names = feature.get("names")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the metadata 'huggingface' of {path} must be JSON that describes column {label_column!r}, "
            "got something else. Write the file again, or without that metadata"
        ) from error
    return tuple(str(name) for name in names) if names else None


def _classes(parts: Sequence[Sequence[_Shard]]) -> tuple[str, ...]:
    shards = [shard for part in parts for shard in part]
    named = [shard for shard in shards if shard.names is not None]
    for other in named[1:]:
        if other.names != named[0].names:
            raise ValueError(
                f"all files must name the same classes, got other names in {other.path} than in "
                f"{named[0].path}. Use files of one data set"
            )
    if named and named[0].names is not None:
        return named[0].names
    return numbered(max((shard.highest for shard in parts[0]), default=0), str(parts[0][0].path))


def _files(source: Paths, option: str) -> list[Path]:
    if not isinstance(source, (str, Path)):
        return [path for one in source for path in _files(one, option)]
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet")) if path.is_dir() else sorted(Path(p) for p in glob.glob(str(path)))
    if not found:
        raise ValueError(
            f"data.{option} must name Parquet files (a file, a folder, a pattern), got {path}, "
            "where there are none. Check the path"
        )
    return found


def _read(
    shards: Sequence[_Shard], image_column: str, classes: tuple[str, ...], form: Form, *, unlabelled: bool
) -> ImageSet:
    name = str(shards[0].path) if len(shards) == 1 else f"{shards[0].path} and {len(shards) - 1} more"
    kind = MultiLabelSet if shards[0].several else ImageSet
    targets = torch.cat([_targets(shard, len(classes)) for shard in shards])
    unlabelled = unlabelled and shards[0].several
    left = leave_encoded(_Rows([shard.path for shard in shards], image_column), name, form)
    if left is not None:
        return kind.read(left, targets, classes, name, unlabelled=unlabelled)
    stack = form.stack(name, len(targets))
    for shard in shards:
        for first, encoded, paths in _batches(shard.path, image_column):
            names = [f"{shard.path} row {first + i} (path {path!r})" for i, path in enumerate(paths)]
            stack.add(encoded, names.__getitem__)
    return kind.read(stack.images(), targets, classes, name, unlabelled=unlabelled)


def _targets(shard: _Shard, num_classes: int) -> Tensor:
    if isinstance(shard.labels, Tensor):
        return shard.labels
    return from_numbers(shard.labels, num_classes, str(shard.path))


class _Rows:
    """Encoded images, read row group by row group; the last group is kept."""

    def __init__(self, paths: Sequence[Path], column: str) -> None:
        self._paths, self._column = list(paths), column
        groups = []
        for number, path in enumerate(paths):
            with _readable(path):
                about = pq.read_metadata(path)
            groups += [(number, k, about.row_group(k).num_rows) for k in range(about.num_row_groups)]
        self._groups = np.array([group for group in groups if group[2]], dtype=np.int64).reshape(-1, 3)
        self._stops = self._groups[:, 2].cumsum()
        self._held: tuple[int, pa.ChunkedArray] | None = None

    def __len__(self) -> int:
        return int(self._groups[:, 2].sum())

    def __getitem__(self, position: int) -> bytes:
        group = int(np.searchsorted(self._stops, position, side="right"))
        file, number, size = self._groups[group].tolist()
        if self._held is None or self._held[0] != group:
            path = self._paths[file]
            with _readable(path), pq.ParquetFile(path, memory_map=True) as opened:
                self._held = group, opened.read_row_group(number, columns=[self._column]).column(0)
        row = self._held[1][position - int(self._stops[group]) + size].as_py()
        encoded = row["bytes"] if isinstance(row, dict) else row
        if encoded is None:
            raise ValueError(
                f"{self.name(position)} must hold the bytes of an image, got none. Write the encoded image into it"
            )
        return encoded

    def name(self, position: int) -> str:
        """Returns file and row."""
        group = int(np.searchsorted(self._stops, position, side="right"))
        file = int(self._groups[group, 0])
        before = int(self._groups[self._groups[:, 0] < file, 2].sum())
        return f"{self._paths[file]} row {position - before}"


def _batches(path: Path, image_column: str) -> Iterator[tuple[int, list[bytes], list[str | None]]]:
    """Yields the number of the first row, the encoded images and their paths, block after block."""
    first = 0
    with _readable(path), pq.ParquetFile(path) as file:
        for block in file.iter_batches(batch_size=_ROWS, columns=[image_column]):
            rows = [row if isinstance(row, dict) else {"bytes": row} for row in block.column(0).to_pylist()]
            for i, row in enumerate(rows):
                if row["bytes"] is None:
                    raise ValueError(
                        f"{path} row {first + i} must hold the bytes of an image, got none "
                        f"(path {row.get('path')!r}). Write the encoded image into it"
                    )
            yield first, [row["bytes"] for row in rows], [row.get("path") for row in rows]
            first += len(rows)
