"""From a dry run to roles: where a network's head, feature, stages and pre-activations are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from understudy.interface import Network
from understudy.models.detection import Detector
from understudy.models.translated import Translated
from understudy.taps.detector import describe_detector
from understudy.taps.norms import find_norm
from understudy.taps.stages import find_stages
from understudy.taps.trace import Call, Shown, Trace, dry_run
from understudy.words import did_you_mean

_ROLE = re.compile(r"head|stage_last|(stage|preact|norm)_(0|[1-9]\d*)")


@dataclass(frozen=True, slots=True)
class DescribedNetwork(Network):
    """A network as the dry run saw it, with what :class:`understudy.taps.Taps` does to some raw tensors."""

    channels_last: frozenset[str] = frozenset()
    """Roles whose module shows ``(B, H, W, C)``; ``shapes`` and what is collected have channels first."""
    copied: frozenset[str] = frozenset()
    """Pre-activations that the network overwrites in place once they were seen."""


def describe(
    module: nn.Module,
    example: Tensor,
    *,
    known: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Network:
    """Returns the network with its roles, found in one dry run that leaves no trace in it.

    - ``head`` is the last linear layer that ran, if its result is what the network returns (dropout, identity
      or a reshape may follow); ``feature`` is its input. Where the network returns a map of logits it is the last
      1×1 convolution that makes as many.
    - ``stage_k`` are found as :mod:`understudy.taps.stages` says. In short: the last unit at each resolution.
    - ``preact_k`` is the input of the activation a stage ends with, and the stage itself if it ends without
      one. It is left out if that activation cannot be hooked: called as a function, or a module that runs
      again later.
    - ``norm_k`` is in ``paths`` only: the batch norm in front of ``preact_k``
      (:func:`understudy.taps.norm_before`).

    A module that is used several times stands for its last use.

    Args:
        module: what is to be tapped; it is not changed.
        example: images; two are used at most, their values do not matter.
        known: role -> module path of a known architecture, instead of the automatic stages; ``preact_k`` is
            derived where it does not say, and ``stage_last`` is its last stage.
        overrides: role -> module path by the user, over both: ``head``, ``stage_k``, ``preact_k`` (the
            activation), ``stage_last`` or ``norm_k``.

    Returns:
        a :class:`DescribedNetwork`; its ``shapes`` leave out the batch dimension.

    Raises:
        ValueError: a role or path does not exist, did not run or is of the wrong kind; stages are not numbered
            from 1 without gaps; the dry run's own checks fail (:func:`understudy.taps.trace.dry_run`).

    Shape:
        example: ``(B, C, H, W)``.

    Example:
        >>> import torch
        >>> from torchvision.models import resnet18
        >>> from understudy.taps import describe
        >>> network = describe(resnet18(), torch.zeros(1, 3, 64, 64))
        >>> network.head, network.shapes["feature"], network.shapes["stage_4"], network.paths["stage_4"]
        ('fc', (512,), (512, 2, 2), 'layer4')
    """
    if isinstance(module, Translated) and isinstance(module.net, Detector):
        raise ValueError(
            "a teacher that finds objects must get the student's images and classes, got one of others. "
            "Train it on this data, or give data.mean, data.std and data.image_size of it"
        )
    if isinstance(module, Translated):
        return _within(
            module, describe(module.net, module.translate_images(example), known=known, overrides=overrides)
        )
    if isinstance(module, Detector):
        return describe_detector(module, example, overrides)
    trace = dry_run(module, example)
    given = {**(known or {}), **(overrides or {})}
    calls = _named_calls(module, trace, given)
    head = calls.pop("head", None) or _find_head(trace)
    stages = {} if known else find_stages(module, trace, head)
    stages.update({role: call for role, call in calls.items() if role.startswith("stage_")})
    last = _check_numbering(stages)
    if last > 0:
        stages.setdefault("stage_last", stages[f"stage_{last}"])
    for role in calls:
        if (stage := f"stage_{role.rpartition('_')[2]}") not in stages:
            raise ValueError(f"taps.{role} must belong to a stage, got no {stage}. Name that stage too")

    reads: dict[str, tuple[str | None, Shown]] = {"logits": (None, trace.output)}
    if head is not None and head.inputs and head.inputs[0].tensor.dim() == trace.output.tensor.dim():
        reads["feature"] = (None, head.inputs[0])
    norms: dict[str, str] = {}
    for role, stage in sorted(stages.items()):
        reads[role] = (stage.name, stage.output)
        if role != "stage_last":
            k = role.removeprefix("stage_")
            activation = calls.get(f"preact_{k}") or _final_activation(trace, stage)
            reads.update(_preactivation(trace, f"preact_{k}", stage, activation))
            norm = calls.get(f"norm_{k}") or find_norm(trace, stage, activation)
            norms.update({} if norm is None else {f"norm_{k}": norm.name})
    return DescribedNetwork(
        module,
        head.name if head is not None else None,
        paths={**{role: path for role, (path, _) in reads.items() if path is not None}, **norms},
        shapes={role: shown.shape for role, (_, shown) in reads.items()},
        channels_last=frozenset(role for role, (_, shown) in reads.items() if shown.channels_last),
        copied=frozenset(
            r for r, (_, shown) in reads.items() if r.startswith("preact_") and shown.overwritten
        ),
    )


def _within(module: Translated, network: Network) -> Network:
    """Returns the network inside a translation as the translated one shows itself: other paths, our classes."""
    assert isinstance(network, DescribedNetwork)
    shapes = dict(network.shapes)
    if module.num_members:
        shapes["logits"] = (module.num_members, *shapes["logits"][1:])
    return replace(
        network,
        module=module,
        head=None if network.head is None else f"net.{network.head}",
        paths={role: f"net.{path}" for role, path in network.paths.items()},
        shapes=shapes,
    )


def _preactivation(
    trace: Trace, role: str, stage: Call, activation: Call | None
) -> dict[str, tuple[str | None, Shown]]:
    if activation is None:
        return {role: (None, stage.output)}
    if activation.module is None or trace.last_calls()[activation.module] is not activation:
        return {}  # no hook would see it
    return {role: (activation.name, activation.inputs[0])}


def _find_head(trace: Trace) -> Call | None:
    if trace.output.tensor.dim() == 4:
        maps = [c for c in trace.calls if _is_pixel_classifier(c.module, trace.output.tensor.shape[1])]
        return maps[-1] if maps else None
    linear = [call for call in trace.calls if isinstance(call.module, nn.Linear)]
    if not linear or not linear[-1].output.shares(trace.output) or linear[-1].output.tensor.dim() != 2:
        return None
    return linear[-1]


def _final_activation(trace: Trace, stage: Call) -> Call | None:
    """Returns the last activation within the stage, if what it made is what the stage returns."""
    inside = [call for call in trace.within(stage) if call.is_activation and call.inputs]
    return inside[-1] if inside and inside[-1].output.shares(stage.output) else None


def _named_calls(module: nn.Module, trace: Trace, given: Mapping[str, str]) -> dict[str, Call]:
    """Returns the last call of every module that was named, checked."""
    modules = dict(module.named_modules(remove_duplicate=False))
    ran = trace.last_calls()
    named = {}
    for role, path in given.items():
        if not _ROLE.fullmatch(role):
            roles = (
                "head",
                "stage_last",
                *(f"{kind}_{k}" for kind in ("stage", "preact", "norm") for k in range(5)),
            )
            raise ValueError(
                f"taps must be head, stage_last, or stage_k, preact_k, norm_k with a number k, got {role!r}. "
                f"{did_you_mean(role, roles)}"
            )
        if path not in modules:
            raise ValueError(
                f"taps.{role} must be a module of {type(module).__name__}, got {path!r}. "
                f"{_nearest(path, modules)}"
            )
        call = ran.get(modules[path])
        if call is None:
            raise ValueError(
                f"taps.{role} must name a module that runs and returns one tensor, got {path!r}, which "
                "did not. Name a module inside it or around it"
            )
        _check_kind(role, path, call, trace.output.tensor)
        named[role] = call
    return named


def _is_pixel_classifier(module: nn.Module | None, num_classes: int) -> bool:
    if not isinstance(module, nn.Conv2d):
        return False
    return module.kernel_size == (1, 1) and module.out_channels == num_classes


def _check_kind(role: str, path: str, call: Call, output: Tensor) -> None:
    kind = type(call.module).__name__
    if role == "head" and output.dim() == 4:
        if not _is_pixel_classifier(call.module, output.shape[1]):
            raise ValueError(
                f"taps.head must name a 1×1 convolution with {output.shape[1]} outputs, got {path!r}, a {kind}. "
                "Name the layer that classifies the pixels"
            )
    elif role == "head" and not isinstance(call.module, nn.Linear):
        raise ValueError(
            f"taps.head must name a linear layer, got {path!r}, a {kind}. Name the last nn.Linear"
        )
    if role.startswith("norm_") and not isinstance(call.module, nn.BatchNorm2d):
        raise ValueError(
            f"taps.{role} must name a batch norm, got {path!r}, a {kind}. Name the nn.BatchNorm2d"
        )
    if role.startswith("preact_") and not call.inputs:
        raise ValueError(
            f"taps.{role} must name a module whose first argument is a tensor, got {path!r}. "
            "Name the activation itself"
        )


def _check_numbering(stages: Iterable[str]) -> int:
    """Returns the number of the last stage, 0 without any."""
    numbers = sorted(int(role[6:]) for role in stages if role not in ("stage_last", "stage_0"))
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(
            f"stages must be numbered from 1 without gaps, got {', '.join(f'stage_{k}' for k in numbers)}. "
            "Name the missing ones too"
        )
    return len(numbers)


def _nearest(path: str, names: Iterable[str]) -> str:
    names = [name for name in names if name]
    near = difflib.get_close_matches(path, names, n=3, cutoff=0.4)
    if near:
        return f"Did you mean {' or '.join(repr(name) for name in near)}?"
    return f"Its outermost modules are {', '.join(sorted(name for name in names if '.' not in name))}"
