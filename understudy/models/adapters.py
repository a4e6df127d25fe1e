"""Networks that are not ours: torchvision's, timm's, and any function that returns a module."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torchvision
from torch import nn

from understudy.models.heads import replace_head
from understudy.words import did_you_mean, first_line

PLAIN_LOGITS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": True, "transform_input": True},
}
"""Arguments without which torchvision's networks return tuples while training, or are other ones than pretrained."""


def build(name: str, builder: Callable[..., nn.Module], /, **kwargs: Any) -> nn.Module:
    """Returns ``builder(**kwargs)``.

    Raises:
        ValueError: the builder does not take these arguments, or lacks one.
    """
    try:
        return builder(**kwargs)
    except TypeError as error:  # chained: the fault may also lie inside the builder
        raise ValueError(
            f"{name} must be given the arguments it takes, got: {error}. Check the model's keys"
        ) from error


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turns what fails while a library fetches its own weights into one line, and keeps the hub's client quiet.

    Raises:
        ValueError: the weights are not on this machine and cannot be fetched.
    """
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it announces every retry
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = first_line(error).rstrip(".")
        raise ValueError(
            f"the weights of {name} must be on this machine or be fetched, got: {reason}. Check the network, or give "
            "weights: FILE"
        ) from error
    finally:
        hub.setLevel(level)


def torchvision_model(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    version: str = "DEFAULT",
    **kwargs: Any,
) -> nn.Module:
    """Returns ``torchvision.models.get_model(name)`` with ``num_classes`` logits.

    Args:
        name: as torchvision lists it.
        num_classes: length of the logits.
        in_channels: 3, all that torchvision's networks take.
        pretrained: downloads torchvision's default weights (or takes them from its cache). If they were made
            for another number of classes, the last linear layer starts anew.
        version: of the pretrained weights, as torchvision calls it; papers before 2022 mean ``IMAGENET1K_V1``.
        kwargs: for torchvision's builder.

    Raises:
        ValueError: no such name or version; ``in_channels`` is not 3; the pretrained classifier cannot be replaced.
    """
    names = torchvision.models.list_models()
    if name not in names:
        raise ValueError(f"model must be one of torchvision's, got {name!r}. {did_you_mean(name, names)}")
    if in_channels != 3:
        raise ValueError(
            f"torchvision/{name} must get images with 3 channels, got in_channels {in_channels}. "
            "Repeat the channel in the data, or give your own package.module:factory"
        )
    builder = torchvision.models.get_model_builder(name)
    if not pretrained:
        if "weights_backbone" in inspect.signature(builder).parameters:
            kwargs.setdefault("weights_backbone", None)  # detectors download their backbone by default
        kwargs = {**PLAIN_LOGITS.get(name, {}), **kwargs, "num_classes": num_classes}
        return build(name, builder, weights=None, **kwargs)
    versions = torchvision.models.get_model_weights(name).__members__
    if version not in versions:
        raise ValueError(
            f"options.version must be one of torchvision's for {name}, got {version!r}. "
            f"{did_you_mean(version, versions)}"
        )
    weights = versions[version]
    net = build(name, builder, weights=weights, progress=False, **kwargs)
    if name == "inception_v3":  # which drops its second head only for those who build it without weights
        vars(net)["aux_logits"] = False
        net.register_module("AuxLogits", None)
    pretrained_classes = len(weights.meta["categories"])
    if pretrained_classes != num_classes:
        replace_head(net, f"torchvision/{name}", pretrained_classes, num_classes)
    return net


def timm_model(
    name: str, num_classes: int, *, in_channels: int = 3, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """Returns ``timm.create_model(name)``; arguments as for :func:`torchvision_model`, any ``in_channels``.

    Raises:
        ValueError: timm is not installed; it has no such model.
    """
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise ValueError(
            f"timm/{name} must have timm installed, got none. Install the extra: pip install '.[timm]'"
        ) from None
    if not timm.is_model(name):
        raise ValueError(
            f"model must be one of timm's, got {name!r}. {did_you_mean(name, timm.list_models())}"
        )
    kwargs |= {"pretrained": pretrained, "num_classes": num_classes, "in_chans": in_channels}
    return build(name, partial(timm.create_model, name), **kwargs)


def imported_model(
    name: str, num_classes: int, *, in_channels: int = 3, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """Returns the module that a function of the user's makes.

    The function gets ``num_classes``, ``in_channels`` and ``pretrained`` as far as it takes them by name; one
    that takes ``**kwargs`` gets the last two only where they are not the default.

    Args:
        name: ``package.module:factory``; the factory may be a class, or an attribute of one.
        num_classes: length of the logits.
        in_channels: of the images.
        pretrained: for the factory to obey.
        kwargs: for the factory.

    Raises:
        ValueError: the module cannot be imported, has no such function, the function does not take what is
            asked for, or it returns no module.
    """
    factory = _import_factory(name)
    parameters = inspect.signature(factory).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if "num_classes" in parameters or open_ended:
        kwargs["num_classes"] = num_classes
    for key, value, default in (("in_channels", in_channels, 3), ("pretrained", pretrained, False)):
        if key in parameters or (value != default and open_ended):
            kwargs[key] = value
        elif value != default:
            raise ValueError(
                f"{name} must take {key} to be given {value}, got no such parameter. Add it to the function"
            )
    net = build(name, factory, **kwargs)
    if not isinstance(net, nn.Module):
        raise ValueError(
            f"{name} must return a torch.nn.Module, got {type(net).__name__}. Return the network itself"
        )
    return net


def _import_factory(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:  # ValueError: an empty or relative module name
        raise ValueError(
            f"{name} must be importable, got: {error}. Install the package or put its folder on PYTHONPATH"
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [
                key for key, value in vars(found).items() if callable(value) and not key.startswith("_")
            ]
            raise ValueError(f"{name} must exist, got no {part!r} in it. {did_you_mean(part, public)}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(
            f"{name} must be a function or class, got {type(found).__name__}. Name the one that builds it"
        )
    return found
