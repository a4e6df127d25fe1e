"""The graph of a saved program as a network: allowed tensor operations, run one after the other."""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

OPERATORS = frozenset(  # a text, for 150 quoted words are harder to read
    """
    abs adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d add add_ addcmul
    addmm alias alpha_dropout amax amin arange argmax _assert_scalar _assert_tensor_metadata avg_pool1d
    avg_pool2d baddbmm batch_norm bitwise_and bitwise_not bmm broadcast_to cat celu channel_shuffle chunk
    clamp clamp_ clamp_max clamp_min clone constant_pad_nd contiguous conv1d conv2d convolution copy cos
    cumsum detach detach_ div div_ dropout dropout_ einsum elu elu_ embedding eq exp expand expand_as
    feature_dropout fill fill_ flatten flip floor full full_like gather ge gelu gelu_ glu group_norm gt
    hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ im2col index index_select instance_norm
    layer_norm le leaky_relu leaky_relu_ lift_fresh_copy linalg_vector_norm linear log _log_softmax
    log_softmax logical_and logical_not logsumexp lt masked_fill masked_fill_ matmul max max_pool1d max_pool2d
    max_pool2d_with_indices maximum mean min minimum mish mish_ mm movedim mul mul_ narrow native_dropout
    native_group_norm native_layer_norm ne neg new_empty new_full new_ones new_zeros norm ones ones_like pad
    permute pixel_shuffle pixel_unshuffle pow prelu reciprocal relu relu_ relu6 relu6_ repeat
    repeat_interleave reshape rms_norm roll rsqrt rsub scalar_tensor scaled_dot_product_attention select selu
    selu_ sigmoid sigmoid_ silu silu_ sin slice _softmax softmax softplus split split_with_sizes sqrt square
    squeeze stack std sub sub_ sum swapaxes sym_numel sym_size t tanh tanh_ tile to _to_copy topk transpose
    tril triu type_as unbind unflatten unfold _unsafe_view unsqueeze upsample_bicubic2d upsample_bilinear2d
    upsample_nearest2d var var_mean view view_as where zero_ zeros zeros_like
    """.split()  # noqa: SIM905
)
"""ATen operators that a program may use: those of image classifiers.

All are tensor arithmetic that checks its arguments. Left out are operators that reach a file (``from_file``, ``save``),
any place in memory (``as_strided``), or beyond a tensor's end (``native_batch_norm`` does not look at the length of its
statistics; ``batch_norm``, which programs have before ``run_decompositions``, does).
"""

_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "eq", "floordiv", "ge", "gt", "le", "lt", "mod", "mul", "ne", "neg", "sub", "truediv")
}
"""What a program may do with the sizes of tensors."""

# How schema 8 of torch.export numbers what a tensor is made of.
DTYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_LAYOUTS = {7: torch.strided}


class ProgramError(ValueError):
    """A program that is not run; the message is for the user."""


class ProgramNetwork(nn.Module):
    """A graph of tensor operations; its tensors are frozen parameters and buffers, so that the network can be moved.

    Args:
        tensors: weights and constants, by their names in the graph.
        nodes: the operations in order, as the schema of ``torch.export`` spells them.
        images: name of the input in the graph.
        logits: name of the output.

    Raises:
        ProgramError: an operation or one of its arguments is not allowed.
        LookupError, TypeError, ValueError: the nodes are not as the schema has them.
    """

    content_digest: str
    """SHA-256 of the operations, which no parameter and no ``repr`` shows."""

    def __init__(self, tensors: Mapping[str, Tensor], nodes: Sequence[Any], images: str, logits: str) -> None:
        super().__init__()
        self.content_digest = hashlib.sha256(json.dumps([nodes, images, logits]).encode()).hexdigest()
        self._places: dict[str, str] = {}
        for name, tensor in tensors.items():
            place = self._places[name] = f"tensor_{len(self._places)}"  # names in a file may hold anything
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(place, tensor)
            else:
                self.register_buffer(place, tensor)
        self._images, self._logits = images, logits
        self._steps = _with_ends(list(_steps(nodes, {*tensors, images}, logits)), logits)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of ``images`` ``(B, C, H, W)``."""
        values: dict[str, Any] = {name: getattr(self, place) for name, place in self._places.items()}
        values[self._images] = images
        for step in self._steps:
            args = [_resolve(arg, values, images.device) for arg in step.args]
            kwargs = {key: _resolve(arg, values, images.device) for key, arg in step.kwargs.items()}
            result = step.call(*args, **kwargs)
            results = (result,) if len(step.outputs) == 1 else result
            for name, value in zip(step.outputs, results or (), strict=True):
                if isinstance(name, tuple):
                    values.update(zip(name, value, strict=True))
                elif name is not None:
                    values[name] = value
            for name in step.ends:
                del values[name]
        return values[self._logits]


@dataclass(frozen=True, slots=True)
class _Ref:
    """A value of the graph, by its name there."""

    name: str


class _Here:
    """The device of the images, wherever the program was exported."""


_HERE = _Here()


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation: what is called with what, and what its results are called."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[str | tuple[str, ...] | None, ...]
    """A tuple of names for a list of tensors; ``None`` for a result that nobody reads."""
    ends: tuple[str, ...] = ()
    """Values that no later step reads, so that their memory is free again."""

    def reads(self) -> set[str]:
        """Returns the values of the graph it needs."""
        return {name for value in (*self.args, *self.kwargs.values()) for name in _names(value)}


def _steps(nodes: Iterable[Any], known: set[str], logits: str) -> Iterator[_Step]:
    for node in nodes:
        given = [(item["kind"] == 1, str(item["name"]), _argument(item["arg"])) for item in node["inputs"]]
        step = _Step(
            _callable(node["target"]),
            tuple(value for positional, _, value in given if positional),
            {name: value for positional, name, value in given if not positional},
            tuple(_output(item) for item in node["outputs"]),
        )
        _check_known(step.reads(), known)
        known |= {
            name for item in step.outputs for name in (item if isinstance(item, tuple) else (item,)) if name
        }
        yield step
    _check_known({logits}, known)


def _with_ends(steps: list[_Step], logits: str) -> tuple[_Step, ...]:
    later = {logits}
    for place in reversed(range(len(steps))):
        reads = steps[place].reads()
        steps[place] = replace(steps[place], ends=tuple(reads - later))
        later |= reads
    return tuple(steps)


def _check_known(names: set[str], known: set[str]) -> None:
    unknown = sorted(names - known)
    if unknown:
        raise LookupError(f"nothing is called {unknown[0]!r}")


def _resolve(value: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    if isinstance(value, _Ref):
        return values[value.name]
    if isinstance(value, list):
        return [_resolve(item, values, device) for item in value]
    return device if value is _HERE else value


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, _Ref):
        yield value.name
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _callable(target: Any) -> Callable[..., Any]:
    """Returns the operator of that name, if it is allowed."""
    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    found = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", str(target))
    if found is None or found[1] not in OPERATORS:
        raise ProgramError(
            f"a program must be made of the operators of image classifiers, got {str(target)[:80]!r}. "
            "Give the network as ONNX, or as package.module:factory with weights"
        )
    return getattr(getattr(torch.ops.aten, found[1]), found[2])


def _argument(item: Mapping[str, Any]) -> Any:
    """Returns an argument as a Python value, with a :class:`_Ref` wherever it is a value of the graph."""
    ((kind, value),) = item.items()
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    if kind in ("as_tensors", "as_ints", "as_floats", "as_bools"):
        return [_PLAIN[kind[:-1]](one) for one in value]
    if kind in ("as_optional_tensor", "as_sym_int", "as_sym_float", "as_sym_bool"):
        return _argument(value)
    if kind in ("as_optional_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools"):
        return [_argument(one) for one in value]
    raise ProgramError(
        f"a program's operators must take tensors, numbers and words, got {str(kind)[:40]!r}. "
        "Give the network as ONNX, or as package.module:factory with weights"
    )


def _output(item: Mapping[str, Any]) -> str | tuple[str, ...] | None:
    """Returns what a result is called."""
    ((kind, value),) = item.items()
    if kind == "as_tensor":
        return str(value["name"])
    if kind == "as_tensors":
        return tuple(str(tensor["name"]) for tensor in value)
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return str(value["as_name"])
    if kind == "as_none":
        return None
    raise TypeError(f"a result is {kind!r}")


def whole(value: Any) -> int:
    """Returns a JSON value that must be a whole number.

    Raises:
        TypeError: it is not.
    """
    if type(value) is not int:
        raise TypeError(f"a whole number is {value!r}")
    return value


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"a truth value is {value!r}")
    return value


_PLAIN: Mapping[str, Callable[[Any], Any]] = {
    "as_bool": _truth,
    "as_device": lambda _: _HERE,
    "as_float": float,  # infinity and NaN are written as words
    "as_int": whole,
    "as_layout": _LAYOUTS.__getitem__,
    "as_memory_format": _MEMORY_FORMATS.__getitem__,
    "as_name": lambda name: _Ref(str(name)),
    "as_none": lambda _: None,
    "as_scalar_type": DTYPES.__getitem__,
    "as_string": str,
    "as_tensor": lambda tensor: _Ref(str(tensor["name"])),
}
