"""Batch norms folded into the convolution or linear layer in front of them: the same answers, fewer passes."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from understudy.interface import Network
from understudy.taps import Taps, ask, without_hooks
from understudy.widest import widen, widest

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSIDE = ("drop", "act")  # what timm's norms with an activation hold, in the order in which it runs

TOLERANCE: Mapping[torch.dtype, float] = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest deviation from the unfolded network, relative to the largest value of what is compared."""
_COARSE = 5e-2  # for half precision


@dataclass(frozen=True, slots=True)
class Folding:
    """A network that answers as another one does, with fewer batch norms in it."""

    network: Network
    """A copy with the same roles at the same paths; the network as given if nothing was folded."""
    folded: tuple[str, ...]
    """Paths of the batch norms that are gone; an ``nn.Identity`` (or the activation they held) is there now."""
    kept: tuple[str, ...]
    """Paths of those that stayed: behind a sum, or behind a layer that something else reads, too."""
    note: str
    """What was done, in a line for the user."""


def fold_batch_norms(network: Network, example: Tensor) -> Folding:
    """Returns the network with every batch norm folded that is the only reader of the layer in front of it.

    With the running statistics μ, v a batch norm in eval mode is ``s * x + (β - s * μ)``, ``s = γ / sqrt(v + ε)``,
    so the layer's weight becomes ``s * W`` and its bias ``s * (b - μ) + β``; both are computed in float64 (on a device
    that has it).

    What flows where is seen in a dry run on random numbers: the norm's input must be the very tensor that the layer
    returned, and nothing else may read it, no role show it. Layers that run twice, share a parameter, carry hooks or
    are of another class than torch's own stay as they are. The outcome is compared with the unfolded network, in
    all roles, on random images: in float64 to 1e-9; a network that cannot run in float64, in its own precision. If
    they differ, the network comes back unfolded, with a note.

    Args:
        network: as :func:`understudy.taps.describe` returns it; neither it nor its module is changed.
        example: images ``(B, C, H, W)``; only shape and device matter.

    Example:
        >>> import torch
        >>> from torchvision.models import resnet18
        >>> from understudy.taps import describe
        >>> from understudy.teacher.fold import fold_batch_norms
        >>> images = torch.zeros(1, 3, 64, 64)
        >>> folding = fold_batch_norms(describe(resnet18(), images), images)
        >>> len(folding.folded), folding.kept
        (20, ())
    """
    norms = tuple(
        p for p, m in network.module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    )
    if not norms:
        return Folding(network, (), (), "the teacher has no batch norm to fold")
    try:
        pairs = _find_pairs(_copied(network), _noise(network.module, example))
        if not pairs:
            return Folding(
                network, (), norms, f"none of the teacher's {len(norms)} batch norms can be folded"
            )
        deviation, limit = _check(network, pairs, example)
    except Exception as error:  # foreign code may look at its own norms in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        return Folding(network, (), norms, f"the teacher runs unfolded: it could not be checked ({reason})")
    if not deviation <= limit:  # so that NaN counts as a difference
        note = f"the teacher runs unfolded: folding changed its answers by {deviation:.1g} (limit {limit:g})"
        return Folding(network, (), norms, note)
    folded = tuple(norm for _, norm in pairs)
    kept = tuple(norm for norm in norms if norm not in folded)
    note = f"{len(folded)} of the teacher's {len(norms)} batch norms folded (checked to {deviation:.0e})"
    return Folding(_folded(_copied(network), pairs), folded, kept, note)


def _check(network: Network, pairs: list[tuple[str, str]], example: Tensor) -> tuple[float, float]:
    """Returns how far a folded network is from the plain one, and how far it may be."""
    plain = _copied(network)
    try:
        plain.module.to(widest(example.device))
        images = _noise(plain.module, example)
        expected = _run(plain, images)
    except RuntimeError:  # a forward with numbers of a fixed type
        plain = _copied(network)
        images = _noise(plain.module, example)
        expected = _run(plain, images)
    got = _run(_folded(plain, pairs), images)
    deviation = max(
        float((got[role] - tensor).abs().max() / tensor.abs().max().clamp_min(1e-30))
        for role, tensor in expected.items()
    )
    return deviation, TOLERANCE.get(images.dtype, _COARSE)


def _run(network: Network, images: Tensor) -> dict[str, Tensor]:
    """Returns all roles, as copies: the caller may change the network and run it again."""
    with Taps(network, tuple(network.shapes)) as taps, torch.no_grad():
        shown = taps.collect(ask(network, images))
    return {role: widen(tensor).clone() for role, tensor in shown.items()}


def _folded(network: Network, pairs: list[tuple[str, str]]) -> Network:
    """Folds the norms of a network in place, and returns it."""
    for layer, norm in pairs:
        _fold(network.module.get_submodule(layer), network.module.get_submodule(norm))
        parent, _, name = norm.rpartition(".")
        replacement = _without_norm(network.module.get_submodule(norm))
        assert replacement is not None
        setattr(network.module.get_submodule(parent), name, replacement.eval())
    return network


def _fold(layer: Any, norm: Any) -> None:
    weight = layer.weight.detach()
    scale = (widen(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * widen(norm.weight.detach())
    bias = -widen(norm.running_mean) if layer.bias is None else widen(layer.bias.detach()) - norm.running_mean
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + widen(norm.bias.detach())
    wide = widen(weight) * scale.reshape(-1, *[1] * (weight.dim() - 1))
    layer.weight = nn.Parameter(wide.to(weight.dtype), requires_grad=False)  # keeps channels-last
    layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)


def _without_norm(norm: nn.Module) -> nn.Module | None:
    """Returns what stands in a folded norm's place: nothing, or the activation it holds; ``None`` if unknown."""
    if type(norm) in _NORMS:
        return nn.Identity()
    inside = dict(norm.named_children())
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) and "act" in inside and inside.keys() <= {*_INSIDE}:
        return nn.Sequential(OrderedDict((name, inside[name]) for name in _INSIDE if name in inside))
    return None


def _copied(network: Network) -> Network:
    return replace(network, module=without_hooks(network.module).eval().requires_grad_(False))


def _noise(module: nn.Module, example: Tensor) -> Tensor:
    """Returns two random images of the example's shape, in the module's precision."""
    like = next((p for p in module.parameters() if p.is_floating_point()), example)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *example.shape[1:], generator=generator).to(like.device, like.dtype)


def _find_pairs(network: Network, images: Tensor) -> list[tuple[str, str]]:
    """Returns ``(layer, batch norm)`` paths that may be folded, from one run of the network."""
    module = network.module
    layers, norms = _candidates(module)
    shown = {p for role, p in network.paths.items() if role.startswith("stage_")}
    shown_inputs = {p for role, p in network.paths.items() if role.startswith("preact_")}
    seen = _Seen({path: m for path, m in module.named_modules() if path in layers})
    with torch.no_grad(), seen.listening(module, norms, shown, shown_inputs), seen:
        output = ask(network, images)
    seen.show(output)
    single = {layer for layer in layers if seen.calls[layer] == 1 and seen.reads[layer] == 1}
    single -= seen.shown | {network.head}
    return [
        (layer, norm)
        for norm, layer in seen.feeds.items()
        if layer in single and seen.calls[norm] == 1 and norm in norms
    ]


def _candidates(module: nn.Module) -> tuple[set[str], set[str]]:
    """Returns the paths of plain layers and of plain batch norms: one name, own parameters, no hooks."""
    owners = Counter(id(p) for m in module.modules() for p in m._parameters.values() if p is not None)
    names = Counter(id(m) for _, m in module.named_modules(remove_duplicate=False))
    layers, norms = set(), set()
    for path, m in module.named_modules():
        alone = names[id(m)] == 1 and all(owners[id(p)] == 1 for p in m.parameters(recurse=False))
        if not alone or m._forward_hooks or m._forward_pre_hooks:
            continue
        if type(m) in _LAYERS:
            layers.add(path)
        elif _without_norm(m) is not None and getattr(m, "running_mean", None) is not None:
            norms.add(path)
    return layers, norms


class _Seen(TorchFunctionMode):
    """Who makes and who reads the results of layers in one run."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layers = layers
        self.calls: Counter[str | None] = Counter()
        self.reads: Counter[str] = Counter()
        """Layer -> number of functions that made a tensor from its result."""
        self.feeds: dict[str, str] = {}
        """Batch norm -> the layer whose result is its input."""
        self.shown: set[str | None] = set()
        """Layers whose result is itself a role, or what the network returns."""
        self._made: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no id is used twice

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if any(True for _ in _tensors(result)):  # .shape, .dim() and the like do not count
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in self._made:
                    self.reads[self._made[id(tensor)][0]] += 1
        return result

    def show(self, value: Any) -> None:
        """Notes that somebody outside sees ``value``."""
        self.shown |= {self._made[id(tensor)][0] for tensor in _tensors(value) if id(tensor) in self._made}

    @contextmanager
    def listening(
        self, module: nn.Module, norms: set[str], shown: set[str], shown_inputs: set[str]
    ) -> Iterator[None]:
        handles = []

        def made(path: str) -> Callable[..., None]:
            def hook(m: nn.Module, args: Any, output: Tensor) -> None:
                self.calls[path] += 1
                self._made[id(output)] = path, output

            return hook

        def normed(path: str) -> Callable[..., None]:
            def hook(m: nn.Module, args: Any) -> None:
                self.calls[path] += 1
                if args and id(args[0]) in self._made:
                    self.feeds[path] = self._made[id(args[0])][0]

            return hook

        for path, layer in self.layers.items():
            handles.append(layer.register_forward_hook(made(path)))
        for path in norms:
            handles.append(module.get_submodule(path).register_forward_pre_hook(normed(path)))
        for path in shown:
            handles.append(
                module.get_submodule(path).register_forward_hook(lambda m, args, out: self.show(out))
            )
        for path in shown_inputs:
            handles.append(
                module.get_submodule(path).register_forward_pre_hook(lambda m, args: self.show(args))
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    """Returns all tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
