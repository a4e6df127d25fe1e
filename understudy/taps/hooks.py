"""Hooks that read roles out of a network while it runs, registered once and removed without a trace."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from understudy.interface import Network
from understudy.taps.detector import with_levels
from understudy.taps.find import DescribedNetwork
from understudy.words import did_you_mean

M = TypeVar("M", bound=nn.Module)


class Taps:
    """Reads roles of a network: every forward pass shows them, :meth:`collect` hands them out once.

    All hooks are registered here, once: registered within a ``forward``, they would break
    ``torch.compile(fullgraph=True)``. Of several forward passes, or several uses of a module within one, the
    last counts. A pre-activation is copied if the network overwrites it in place; all else is handed out as
    it is, so a stage that an in-place activation overwrites afterwards (the last of torchvision's DenseNet)
    shows what the network itself went on with.

    Copies of the module (``copy.deepcopy``, pickle) carry hooks that do nothing; :func:`without_hooks` makes
    one that carries none. A copy of the taps themselves reads the copy of the network.

    Args:
        network: from :func:`understudy.taps.describe`. Only its modules' hooks change.
        roles: what to read; ``stage_*`` and ``preact_*`` stand for the stages from 1 up.

    Raises:
        ValueError: the network has no such role.

    Example:
        >>> import torch
        >>> from torchvision.models import resnet18
        >>> from understudy.taps import Taps, describe
        >>> net = resnet18(num_classes=10)
        >>> with Taps(describe(net, torch.zeros(1, 3, 64, 64)), ["logits", "feature", "stage_*"]) as taps:
        ...     shown = taps.collect(net(torch.zeros(4, 3, 64, 64)))
        >>> {role: tuple(tensor.shape[1:]) for role, tensor in shown.items() if role in ("logits", "stage_2")}
        {'logits': (10,), 'stage_2': (128, 8, 8)}
    """

    def __init__(self, network: Network, roles: Iterable[str]) -> None:
        self.network = network
        self.roles = _expand(network, roles)
        self._shown: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        described = network if isinstance(network, DescribedNetwork) else None
        self._channels_last = described.channels_last if described is not None else frozenset[str]()
        self._detects = network.detects
        for role in self.roles:
            if role == "logits" or network.detects:
                continue
            module, reads_input = _place(network, role)
            overwritten = reads_input and role != "feature" and bool(getattr(module, "inplace", False))
            if described is not None:
                overwritten = role in described.copied
            hook = _Hook(self._shown, role, overwritten)
            register = module.register_forward_pre_hook if reads_input else module.register_forward_hook
            self._handles.append(register(hook))

    def collect(self, logits: Any) -> dict[str, Tensor]:
        """Returns what the last forward pass showed, by role, and keeps no reference to it.

        Args:
            logits: what that forward pass returned: the logits, or of a detector everything it shows, by role.

        Raises:
            ValueError: the network has not run since the last time.
        """
        if self._detects:
            return with_levels(logits)
        missing = [role for role in self.roles if role != "logits" and role not in self._shown]
        if missing:
            raise ValueError(
                f"the network must run before its taps are collected, got nothing for {', '.join(missing)}. "
                "Call the module itself (not its forward) once before each collect, and not after close"
            )
        out = {role: logits if role == "logits" else self._shown[role] for role in self.roles}
        self._shown.clear()
        for role in self._channels_last & out.keys():
            out[role] = out[role].permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        return out

    def forget(self) -> None:
        """Keeps no reference to what a forward pass showed that nobody collects."""
        self._shown.clear()

    def close(self) -> None:
        """Removes all hooks and forgets what they read; a second time does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._shown.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return _on_copy, (self.network, self.roles)

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def without_hooks(module: M) -> M:
    """Returns a deep copy of a module without any hook of :class:`Taps`; others' hooks are copied with it."""
    plain = copy.deepcopy(module)
    _remove_spent(plain)
    return plain


def _on_copy(network: Network, roles: tuple[str, ...]) -> Taps:
    _remove_spent(network.module)
    return Taps(network, roles)


def _remove_spent(module: nn.Module) -> None:
    """Removes what hooks became when their module was copied."""
    for m in module.modules():
        for hooks in (m._forward_hooks, m._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _Spent)]:
                del hooks[key]


class _Hook:
    """Keeps what a module is given (as forward pre-hook) or returns (as forward hook)."""

    def __init__(self, shown: dict[str, Tensor], role: str, copied: bool) -> None:
        self.shown = shown
        self.role = role
        self.copied = copied

    def __call__(self, module: nn.Module, args: tuple[Any, ...], *output: Tensor) -> None:
        del module
        tensor = output[0] if output else args[0]
        self.shown[self.role] = tensor.clone() if self.copied else tensor

    def __reduce__(self) -> tuple[type[_Spent], tuple[()]]:
        # a copy must neither write into this network's dict nor copy the non-leaf tensors that lie there
        return _Spent, ()


class _Spent:
    """What a hook becomes in a copy of its module: nothing."""

    def __call__(self, *args: object) -> None:
        """Does nothing."""


def _expand(network: Network, roles: Iterable[str]) -> tuple[str, ...]:
    """Returns the roles with wildcards written out, each once, checked."""
    expanded: dict[str, None] = {}
    for role in roles:
        if role not in ("stage_*", "preact_*"):
            expanded[role] = None
        elif network.num_stages == 0:
            raise ValueError(
                f"{type(network.module).__name__} must have stages for {role!r}, got none that was found. "
                "Name them in the config, e.g. taps: {stage_1: layer1}"
            )
        else:
            expanded.update(dict.fromkeys(f"{role[:-1]}{k}" for k in range(1, network.num_stages + 1)))
    for role in expanded:
        if role not in network.shapes:
            hidden = role.startswith("preact_") and role.replace("preact", "stage") in network.shapes
            reason = (
                "the activation in front of it is a function, or a module that runs again later; " * hidden
            )
            raise ValueError(
                f"roles must be what {type(network.module).__name__} shows, got {role!r}: {reason}"
                f"name its module in the config (taps). {did_you_mean(role, network.shapes)}"
            )
    return tuple(expanded)


def _place(network: Network, role: str) -> tuple[nn.Module, bool]:
    """Returns the module to hook and whether its input is the role, not its output."""
    if role == "feature":
        return network.head_layer, True
    if role in network.paths:
        return network.module.get_submodule(network.paths[role]), role.startswith("preact_")
    return network.module.get_submodule(network.paths[role.replace("preact", "stage")]), False
