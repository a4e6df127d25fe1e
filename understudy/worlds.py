"""A network's images and classes, where they are not the data's: what is chosen, and the network that results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from understudy.config import ModelConfig, TeacherConfig
from understudy.data import MaskSet, Splits
from understudy.models import create_model
from understudy.models.classes import match_classes, read_names
from understudy.models.published import Published, published
from understudy.models.translated import Translated


def read_teacher(
    config: TeacherConfig, data: Splits, device: torch.device
) -> tuple[nn.Module, dict[str, Any], str | None]:
    """Returns a teacher that answers our images in our classes.

    What the config leaves open is taken from the weights, as far as they say it (:mod:`understudy.models.published`),
    else from the data.

    Returns:
        The network, in a :class:`Translated` where anything differs; the choices made, by key of the config; and a
        line on them, ``None`` where nothing differs.

    Raises:
        ValueError: the classes do not fit together, or the network does not exist or suit the images.
    """
    version = str(config.options.get("version", "DEFAULT"))
    known = published(config.model, config.weights, config.pretrained, version)
    members, count = _members(config, data, known)
    network, chosen, line = _in_its_world("teacher", config, data, device, known, count, members)
    if members is not None:
        line = f"{line}; {sum(map(len, members))} of its {count} classes make our {len(members)}"
    return network, chosen, line


def read_student(
    config: ModelConfig, data: Splits, device: torch.device
) -> tuple[nn.Module, dict[str, Any], str | None]:
    """Returns a student that takes the images of the data, and prepares them itself where its own are others.

    What the config leaves open is as the data have it, whatever weights say.

    Returns:
        As :func:`read_teacher`.

    Raises:
        ValueError: mean and deviation do not fit, the network does not exist, or pixels would be classified at another
            size.
    """
    if config.image_size is not None and isinstance(data.train, MaskSet):
        raise ValueError(
            f"student.image_size must be left out for images with masks, got {config.image_size}. "
            "Set data.image_size or data.augment.crop"
        )
    return _in_its_world("student", config, data, device, Published(), data.num_classes, None)


def _in_its_world(
    key: str,
    config: ModelConfig,
    data: Splits,
    device: torch.device,
    known: Published,
    count: int,
    members: list[list[int]] | None,
) -> tuple[nn.Module, dict[str, Any], str | None]:
    """Returns the network of ``teacher:`` or ``student:``, the choices made and a line on its images.

    Args:
        key: ``teacher`` or ``student``.
        config: of the network.
        data: whose images it is shown.
        device: where it goes.
        known: what its weights say.
        count: of its classes.
        members: what our classes are made of, ``None`` for its own.
    """
    count_of_channels = data.channels if known.mean is None else len(known.mean)
    channels = config.channels or known.channels or ("grey" if count_of_channels == 1 else "rgb")
    net = create_model(
        config.model,
        num_classes=count,
        in_channels=1 if channels == "grey" else 3,
        weights=config.weights,
        pretrained=config.pretrained,
        **config.options,
    ).to(device)
    size = config.image_size or known.image_size or data.image_size
    mean, std = _statistics(key, config, known, data, 1 if channels == "grey" else 3)
    ours = (data.mean, data.std)
    same_images = (size, tuple(mean), tuple(std)) == (data.image_size, tuple(data.mean), tuple(data.std))
    if same_images and channels == ("grey" if data.channels == 1 else "rgb") and members is None:
        return net, {}, None
    other_size = None if size == data.image_size else size
    translated = Translated(net, ours, (mean, std), image_size=other_size, channels=channels, members=members)
    chosen = {"mean": list(mean), "std": list(std), "image_size": list(size), "channels": channels}
    line = f"gets {channels} images of {size[0]}×{size[1]}, mean {_short(mean)}, std {_short(std)}"
    return translated.to(device), chosen, line


def _members(config: TeacherConfig, data: Splits, known: Published) -> tuple[list[list[int]] | None, int]:
    """Returns what our classes are made of, ``None`` for the teacher's own in their order; and how many it has."""
    given = config.classes
    names = known.classes if given is None or given.names is None else read_names(given.names)
    if given is None:
        if names is not None and config.weights is not None:
            _check_order(names, data.classes)
        return None, data.num_classes
    count = given.count or (len(names) if names is not None else known.num_classes)
    if count is None:
        raise ValueError(
            "teacher.classes.count must say how many classes the teacher has, got nothing, and its weights do not. "
            "Add it, or teacher.classes.names"
        )
    if names is not None and len(names) != count:
        raise ValueError(
            f"teacher.classes.names must have {count} names, one a class, got {len(names)}. Correct names or count"
        )
    return match_classes(data.classes, given.map, names, count), count


def _check_order(theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Refuses a teacher of as many classes with other names; numbers for names say nothing beside names."""
    numbers = tuple(map(str, range(len(ours))))
    if len(theirs) != len(ours) or tuple(theirs) == tuple(ours):
        return
    if numbers in (tuple(theirs), tuple(ours)) and set(theirs) != set(ours):
        return
    at = next(k for k, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
    raise ValueError(
        f"teacher and data must have the same classes in the same order, got {theirs[at]!r} and {ours[at]!r} as class "
        f"{at}. Set teacher.classes={{map: name}} to match them by name, or give another map"
    )


def _statistics(
    key: str, config: ModelConfig, known: Published, data: Splits, count: int
) -> tuple[Sequence[float], Sequence[float]]:
    """Returns mean and standard deviation for the network's channels: given, of its weights, or of the data."""
    if (config.mean is None) != (config.std is None):
        raise ValueError(f"{key}.mean and {key}.std must be given together, got one of them. Add the other")
    if config.mean is not None and config.std is not None:
        if len(config.mean) != count or len(config.std) != count:
            raise ValueError(
                f"{key}.mean and {key}.std must have a number for each of {count} channels, got {len(config.mean)} and "
                f"{len(config.std)}. Correct them, or {key}.channels"
            )
        return config.mean, config.std
    if known.mean is not None and known.std is not None and len(known.mean) == count:
        return known.mean, known.std
    if count == data.channels:
        return data.mean, data.std
    if data.channels == 1:  # a grey image in three channels
        return data.mean * 3, data.std * 3
    raise ValueError(
        f"{key}.mean and {key}.std must be given for grey images of coloured ones, got none. Add both"
    )


def _short(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
