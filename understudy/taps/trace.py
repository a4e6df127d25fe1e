"""One dry run of a network that leaves no trace in it: which module ran when, on what, with what result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVATIONS = frozenset({
    "relu", "relu6", "leakyrelu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "gelutanh", "quickgelu",
    "silu", "swish", "mish", "hardswish", "hardtanh", "hardsigmoid", "hardmish", "softplus", "softsign",
    "tanh", "sigmoid",
})  # fmt: skip
"""Modules and functions in lower case without underscores; by name, so that timm's are among them."""
_ADDITIONS = frozenset({"add", "iadd", "radd"})
_PRODUCTS = frozenset(
    {"mul", "imul", "rmul"}
)  # gates; written down so that the way back through them is seen


def is_activation(module: nn.Module) -> bool:
    """Returns whether the module is an elementwise non-linearity."""
    return type(module).__name__.lower() in ACTIVATIONS


@dataclass(slots=True, eq=False)
class Shown:
    """A tensor that went into or came out of a call, as it was then."""

    tensor: Tensor
    version: int
    """Rises with every in-place change."""
    side: float = 0.0
    """Square root of height times width in pixels; 0 for what is no map."""
    channels_last: bool = False
    """Whether a map is ``(B, H, W, C)``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's part, the channels of a map in front."""
        shape = tuple(self.tensor.shape[1:])
        return (shape[2], shape[0], shape[1]) if self.channels_last else shape

    @property
    def overwritten(self) -> bool:
        """Whether an in-place operation has changed the tensor since."""
        return self.tensor._version != self.version

    def shares(self, other: Shown) -> bool:
        """Returns whether both are one piece of memory: the same tensor, or a reshape of it."""
        a, b = self.tensor, other.tensor
        return a is b or (a.data_ptr() == b.data_ptr() and a.numel() == b.numel())


@dataclass(slots=True, eq=False)
class Call:
    """One call of a module, or of an activation, sum or product written as a function (``module`` None)."""

    name: str
    """Path of the module; name of the function."""
    module: nn.Module | None
    inputs: tuple[Shown, ...]
    """The tensors among the positional arguments."""
    output: Shown
    start: int
    end: int
    """Steps of one clock: a call within another has the later start and the earlier end."""

    @property
    def is_leaf(self) -> bool:
        """Whether no module lies inside."""
        return self.module is None or next(self.module.children(), None) is None

    @property
    def is_activation(self) -> bool:
        """Whether an elementwise non-linearity was called, as a module or as a function."""
        return self.name in ACTIVATIONS if self.module is None else is_activation(self.module)

    @property
    def is_addition(self) -> bool:
        """Whether two tensors were added."""
        return self.module is None and self.name in _ADDITIONS

    def encloses(self, other: Call) -> bool:
        """Returns whether ``other`` ran within this call, or is it."""
        return self.start <= other.start and other.end <= self.end


@dataclass(slots=True, eq=False)
class Trace:
    """All calls of one forward pass, in the order in which they returned.

    It holds on to every tensor, so that identity says what flowed where: keep it only as long as it is being
    read.
    """

    size: tuple[int, int]
    """Height and width of the images."""
    calls: list[Call]
    output: Shown
    records: frozenset[nn.Module] = frozenset()
    """Modules that returned tensors by name instead of one tensor."""

    def last_calls(self) -> dict[nn.Module, Call]:
        """Returns the last call of every module that ran: the one whose tensors a hook has at the end."""
        return {call.module: call for call in self.calls if call.module is not None}

    def within(self, outer: Call) -> list[Call]:
        """Returns the calls that ran within ``outer``, itself the last."""
        return [call for call in self.calls if outer.encloses(call)]

    def producer(self, shown: Shown, before: Call) -> Call | None:
        """Returns the innermost call that made a tensor or last changed it in place, ahead of ``before``."""
        made = (
            c for c in self.calls if c.is_leaf and c.end < before.start and c.output.tensor is shown.tensor
        )
        return max(made, key=lambda call: call.end, default=None)


def dry_run(module: nn.Module, example: Tensor) -> Trace:
    """Returns what ran in one forward pass over at most two images: eval mode, no gradients, no autocast.

    Buffers, training flags, gradients and random states (CPU and CUDA) are afterwards what they were; the
    images are copied, and moved to the device and precision of the parameters.

    Args:
        module: any module that takes images and returns one tensor.
        example: images, values do not matter.

    Raises:
        ValueError: ``example`` is not a batch of images, or the module does not return a tensor with a row an
        image.

    Shape:
        example: ``(B, C, H, W)`` with B from 1 up.
    """
    if example.dim() != 4 or example.shape[0] == 0:
        raise ValueError(
            f"example must be images of shape (B, C, H, W), got {tuple(example.shape)}. "
            "Give one batch, e.g. torch.zeros(1, 3, 32, 32)"
        )
    with torch.inference_mode(False):  # inference tensors have no version to compare
        like = next((p for p in module.parameters() if p.is_floating_point()), example)
        images = example[:2].to(device=like.device, dtype=like.dtype).clone()
        recorder = _Recorder(module)
        with _untouched(module, images.device), recorder.listening(), recorder:
            output = _answer(module, images)
    if not isinstance(output, Tensor) or output.dim() == 0 or output.shape[0] != images.shape[0]:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"{type(module).__name__} must return one tensor of logits with a row an image, got {got}. "
            "Wrap it in a module whose forward picks the logits"
        )
    size = (images.shape[2], images.shape[3])
    _find_layouts(recorder.calls, size, images.shape[0])
    return Trace(size, recorder.calls, Shown(output, output._version), frozenset(recorder.records))


def _answer(module: nn.Module, images: Tensor) -> Any:
    try:
        return module(images)
    except (ValueError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a network may raise whatever it stumbles over
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{type(module).__name__} must take images of shape {tuple(images.shape)}, got {type(error).__name__}: "
            f"{first}. Set the network's image_size or channels, or those of the data"
        ) from error


@contextmanager
def _untouched(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode for the block; puts back what a forward pass may have changed."""
    flags = [(m, m.training) for m in module.modules()]
    # eval mode protects torch's own norms; one that always uses batch statistics writes its buffers even so
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with (
        torch.random.fork_rng(devices=list(devices)),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        try:
            for m, _ in flags:
                m.training = False  # the flag alone: a user's own train() may do more
            yield
        finally:
            for m, training in flags:
                m.training = training
            for buffer, saved in buffers:
                if not torch.equal(buffer, saved):
                    buffer.copy_(saved)


class _Recorder(TorchFunctionMode):
    """Writes down calls: of modules by temporary hooks, of functions by listening to torch itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.records: set[nn.Module] = set()
        self._paths = {m: path for path, m in module.named_modules()}
        self._open: list[tuple[nn.Module, int, tuple[Shown, ...]]] = []
        self._clock = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        handles = []
        try:
            for m in self._paths:
                handles += [m.register_forward_pre_hook(self._enter), m.register_forward_hook(self._leave)]
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        name = getattr(func, "__name__", "").lower().replace("_", "")
        if name not in ACTIVATIONS | _ADDITIONS | _PRODUCTS:
            return func(*args, **(kwargs or {}))
        start, inputs = self._tick(), _shown(args)
        output = func(*args, **(kwargs or {}))
        inside = bool(self._open) and is_activation(self._open[-1][0])  # nn.ReLU calls relu itself
        if isinstance(output, Tensor) and not inside:
            self.calls.append(Call(name, None, inputs, Shown(output, output._version), start, self._tick()))
        return output

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._open.append((module, self._tick(), _shown(args)))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del args
        while True:  # calls left by an exception that the model itself caught never return
            opened, start, inputs = self._open.pop()
            if opened is module:
                break
        if isinstance(output, Mapping):
            self.records.add(module)
        elif isinstance(output, Tensor):
            shown = Shown(output, output._version)
            self.calls.append(Call(self._paths[module], module, inputs, shown, start, self._tick()))

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _shown(args: tuple[Any, ...]) -> tuple[Shown, ...]:
    return tuple(Shown(a, a._version) for a in args if isinstance(a, Tensor))


def _find_layouts(calls: list[Call], size: tuple[int, int], batch: int) -> None:
    """Fills in ``side`` and ``channels_last`` of every map.

    The two dimensions in the images' aspect ratio are height and width; where no two are (attention's
    windows), it is no map. Where both readings fit (as many
    channels as rows), a class of modules is read as elsewhere in the network, and channels-first if it fits
    nowhere else.
    """
    sure: dict[type | str, bool] = {}
    doubtful: list[tuple[type | str, Shown]] = []
    for call in calls:
        for shown in (*call.inputs, call.output):
            if shown.tensor.dim() != 4 or shown.tensor.shape[0] != batch:
                continue
            kind = call.name if call.module is None else type(call.module)
            _, a, b, c = shown.tensor.shape
            first, last = _fits(b, c, size), _fits(a, b, size)
            if not (first or last):
                continue
            if first and last:
                doubtful.append((kind, shown))
                shown.side = math.sqrt(b * c)
            else:
                sure[kind] = shown.channels_last = last
                shown.side = math.sqrt(a * b if last else b * c)
    for kind, shown in doubtful:
        if sure.get(kind, False):
            shown.channels_last = True
            shown.side = math.sqrt(shown.tensor.shape[1] * shown.tensor.shape[2])


def _fits(height: int, width: int, size: tuple[int, int]) -> bool:
    slack = 0 if size[0] == size[1] else max(1, size[0] / size[1])  # strides round each side by itself
    return abs(height - width * size[0] / size[1]) <= slack
