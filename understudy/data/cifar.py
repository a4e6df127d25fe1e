"""CIFAR-10 and CIFAR-100 from torchvision's files."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from understudy.data.images import ImageSet


def read_cifar10(root: str | Path = "~/data", download: bool = False) -> tuple[ImageSet, ImageSet]:
    """Returns CIFAR-10's 50,000 training and 10,000 test images, 3 x 32 x 32.

    Args:
        root: folder that holds ``cifar-10-batches-py``.
        download: fetch the files (170 MB) if they are not there.

    Raises:
        ValueError: the files are missing or damaged, or cannot be fetched.
    """
    return _read(CIFAR10, "cifar10", root, download)


def read_cifar100(root: str | Path = "~/data", download: bool = False) -> tuple[ImageSet, ImageSet]:
    """Returns CIFAR-100's 50,000 training and 10,000 test images, 3 x 32 x 32, with the 100 fine labels.

    Args:
        root: folder that holds ``cifar-100-python``.
        download: fetch the files (169 MB) if they are not there.

    Raises:
        ValueError: the files are missing or damaged, or cannot be fetched.
    """
    return _read(CIFAR100, "cifar100", root, download)


def _read(kind: type[CIFAR10], name: str, root: str | Path, download: bool) -> tuple[ImageSet, ImageSet]:
    folder = Path(root).expanduser()
    try:
        parts = [kind(folder, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:  # files missing or damaged; no network, no space
        if download:
            raise ValueError(
                f"{name} must be downloaded to {folder}, got: {str(error).strip()}. "
                "Check the network and the folder"
            ) from error
        raise ValueError(
            f"{folder} must hold {name} as {kind.base_folder}, got no complete copy. "
            "Set data.root to the folder that does, or data.download=true to fetch it"
        ) from error
    train, test = (
        ImageSet.read(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets),
            part.classes,
            f"{name}/{split}",
        )
        for part, split in zip(parts, ("train", "test"), strict=True)
    )
    return train, test
