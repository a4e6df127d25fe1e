"""What a run depends on that no checkpoint holds: images, teachers, settings. It must go on with the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from understudy.build import Built
from understudy.config import Config
from understudy.data.images import ImageSet
from understudy.models import SAVED
from understudy.teacher.fingerprint import data_digest, weights_digest

_FREE = frozenset(
    (
        "output",
        *(f"data.{key}" for key in ("root", "train", "test", "download", "max_gib", "resident", "workers")),
        *(f"train.{key}" for key in ("device", "threads", "compile", "capture", "shard", "eval_batch_size")),
        *(f"train.{key}" for key in ("checkpoint_minutes", "keep_checkpoints", "trackers", "diagnose_every")),
    )
)
"""Settings that say where, how fast and what besides: images and weights are compared as such, wherever they lie."""
_FREE_OF_A_NETWORK = frozenset(("weights", "pretrained", "table", "tables", "shard"))


def inputs(built: Built, digests: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Returns what a run depends on, as plain values for its checkpoints.

    All pixels in memory and all weights of the teachers are read: about a second for 2 GB. Of images that are decoded
    batch by batch, labels and order alone are compared.

    Args:
        built: with every automatic choice made.
        digests: of these images and teachers, where another run has them already.
    """
    settings = dict(flat(built.config.model_dump(mode="json", exclude={"study", "tune"})))
    return {
        "settings": {key: value for key, value in settings.items() if not is_free(key)},
        "digests": dict(_digests(built) if digests is None else digests),
        "files": weight_files(built.config),
    }


def weight_files(config: Config) -> dict[str, str]:
    """Returns a SHA-256 of every file of weights that a config names, by the network's name: ``student``, ``teacher``.

    A saved program (``.pt2``, ``.onnx``) is one. Files that are not there have none.
    """
    networks = {"student": config.student, **config.guides}
    named = {
        name: network.model if network.model.endswith(SAVED) else network.weights
        for name, network in networks.items()
    }
    paths = {name: Path(weights).expanduser() for name, weights in named.items() if weights is not None}
    return {
        name: _file_digest(path, path.stat().st_mtime_ns) for name, path in paths.items() if path.is_file()
    }


@lru_cache
def _file_digest(path: Path, changed_at: int) -> str:
    """Returns a SHA-256 of a file; a study asks for its teacher's once a run."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()


def changed(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the names of what is another one now; what either does not know (another version) is not compared."""
    return [
        name
        for part in ("digests", "settings")
        for name, value in now[part].items()
        if before.get(part, {}).get(name, value) != value
    ]


def _digests(built: Built) -> dict[str, str]:
    parts = {"training images": built.data.train, "held-out images": built.data.val}
    guides = built.distiller.guides.networks
    return {name: _images_digest(images) for name, images in parts.items() if images is not None} | {
        f"weights of {name}": weights_digest(network.module) for name, network in guides.items()
    }


def _images_digest(images: ImageSet) -> str:
    """Returns a SHA-256 over images and labels, in their order."""
    digest = hashlib.sha256(images.targets.cpu().contiguous().numpy().data)
    if isinstance(images.images, Tensor):
        digest.update(data_digest(images).encode())
    else:
        digest.update(f"{tuple(images.images.shape)} {images.classes}".encode())
        digest.update(images.index.cpu().numpy().data)
    return digest.hexdigest()


def is_free(key: str) -> bool:
    """Returns whether a setting, by its dotted key, is no part of what a run computes."""
    section, _, last = key.rpartition(".")
    network = section in ("student", "teacher") or section.startswith("teachers.")
    return key in _FREE or (network and last in _FREE_OF_A_NETWORK)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields settings under their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
