"""Where the stages of a network end, from a dry run.

**Units.** The module tree is flattened into a chain of units. The root, plain ``nn.Sequential`` and
``nn.ModuleList`` are always entered, and so is what returns a record of tensors (Hugging Face's backbones);
another module only if the resolution drops more than once inside it (a backbone in a wrapper). All others are
indivisible, so that a residual block's inner convolutions, still at the larger resolution, end no stage.
Dropout, identity, flatten and pooling are no units, nor is what follows global pooling or a 1x1 convolution
that makes the logits.

**Stages.** Every stage ends with the last unit at its resolution. A resolution counts as lower if its side is
at most 2/3 of the stage's first (unpadded convolutions nibble at the rim). Norms and convolutions that stand,
in one ``nn.Sequential``, right in front of the layer that lowers the resolution are the way into the next
stage (the transitions of DenseNet and ConvNeXt), so the stage ends before them.

**Stem.** ``stage_0``. A first resolution of half the image's (ResNet, MobileNet) is the stem as a whole.
Otherwise (stride 1 as on CIFAR, patches as in ConvNeXt and Swin) the stem shares its resolution with
``stage_1``: it is the run of single layers at the start, up to the first activation.

**Tokens.** If the maps have only one resolution and modules of one class, side by side, return equal tokens
``(B, N, D)``, the network is a transformer: its blocks make four groups, as equal as can be, and a stage is
the end of a group.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from understudy.taps.trace import Call, Trace

_DROP = 1.5  # ratio of sides from which on a map counts as smaller; strides halve
_GROUPS = 4  # of transformer blocks, as convolutional networks have four stages


def find_stages(module: nn.Module, trace: Trace, head: Call | None) -> dict[str, Call]:
    """Returns the calls that end ``stage_0`` to ``stage_n`` and ``stage_last``; empty if there are none.

    Args:
        module: the root of the network.
        trace: its dry run.
        head: its last linear layer; without one, a 1x1 convolution is looked for that makes the logits.
    """
    units = _units(module, trace, head)
    levels = _levels(trace, units)
    if len(levels) <= 1 and (tokens := _token_stages(trace)):
        return tokens
    if not levels:
        return {}
    ends = [_end(module, units, level) for level in levels[:-1]] + [levels[-1][-1]]
    halved = _DROP <= _image_side(trace) / levels[0][0].output.side < 2 * _DROP
    if halved and len(levels) > 1:
        chain = ends
    else:
        stem = _stem(levels[0])
        chain = [stem, *(end for end in ends if end.end > stem.end)]
    named = {**{f"stage_{k}": call for k, call in enumerate(chain)}, "stage_last": ends[-1]}
    return {role: _outermost(trace, call, chain) for role, call in named.items()}


def _units(module: nn.Module, trace: Trace, head: Call | None) -> list[Call]:
    """Returns the chain of units that show a map or pool one, in the order in which they returned."""
    ran = trace.last_calls()
    found: dict[nn.Module, Call] = {}

    def enter(parent: nn.Module) -> None:
        for child in parent.children():
            entered = child in trace.records or _is_container(child, ran)
            if entered or (child in ran and _drops(trace, ran[child]) > 1):
                enter(child)
            elif child in ran:
                found[child] = ran[child]

    enter(module)
    units = sorted(found.values(), key=lambda call: call.end)
    for at, unit in enumerate(units):
        kind = type(unit.module).__name__
        if "Pool" in kind and ("Adaptive" in kind or "Global" in kind) and unit.output.side <= 1:
            units = units[:at]
            break
    classifier = head if head is not None else _convolutional_classifier(trace)
    if classifier is not None and isinstance(classifier.module, nn.Conv2d) and classifier in units:
        units = units[: units.index(classifier)]
    return [unit for unit in units if unit.output.side > 0]


def _convolutional_classifier(trace: Trace) -> Call | None:
    convolutions = [call for call in trace.calls if isinstance(call.module, nn.Conv2d)]
    if not convolutions:
        return None
    last, (logits, *_) = convolutions[-1], trace.output.shape
    assert isinstance(last.module, nn.Conv2d)
    return last if last.module.kernel_size == (1, 1) and last.module.out_channels == logits else None


def _is_container(module: nn.Module, ran: dict[nn.Module, Call]) -> bool:
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return isinstance(module, (nn.ModuleList, nn.ModuleDict)) and module not in ran


def _drops(trace: Trace, call: Call) -> int:
    """Returns how often the resolution drops from a call's input to its output; the end of maps is a drop."""
    sides = [inner.output.side for inner in trace.within(call) if inner.output.side > 0]
    level = max([shown.side for shown in call.inputs] + sides, default=0.0)
    drops = 1 if sides and call.output.side == 0 else 0
    for side in sorted(sides, reverse=True):
        if side < call.output.side:
            break  # a gate's pooled maps (squeeze and excitation): they return to the larger resolution
        if level / side >= _DROP:
            drops, level = drops + 1, side
    return drops


def _levels(trace: Trace, units: list[Call]) -> list[list[Call]]:
    """Returns the units that may end a stage, a list a resolution; a decoder (it rises again) is left out."""
    levels: list[list[Call]] = []
    first = _image_side(trace)
    for unit in units:
        side = unit.output.side
        if levels and side / first >= _DROP:
            break
        if _is_passive(unit):
            continue
        if not levels or first / side >= _DROP:
            levels.append([])
            first = side
        levels[-1].append(unit)
    return levels


def _is_passive(unit: Call) -> bool:
    kind = type(unit.module).__name__
    return "Pool" in kind or "Dropout" in kind or kind in ("Identity", "Flatten")


def _end(module: nn.Module, units: list[Call], level: list[Call]) -> Call:
    """Returns the last unit of a level that is not part of the transition into the next."""
    later = units[units.index(level[-1]) + 1 :]
    lowers = next(u for u in later if not _is_passive(u) or "Pool" in type(u.module).__name__)
    for unit in reversed(level):
        if not unit.is_leaf or unit.is_activation or not _in_one_sequential(module, unit, lowers):
            return unit
    return level[-1]


def _in_one_sequential(module: nn.Module, a: Call, b: Call) -> bool:
    parent = a.name.rpartition(".")[0]
    return parent == b.name.rpartition(".")[0] and isinstance(module.get_submodule(parent), nn.Sequential)


def _outermost(trace: Trace, end: Call, chain: list[Call]) -> Call:
    """Returns the outermost module around a stage's end that returns the same and holds no other end."""
    around = [end]
    for call in trace.calls:
        holds_other = any(call.encloses(other) for other in chain if other is not end)
        if call.module is not None and call.encloses(end) and not holds_other:
            around += [call] if call.output.tensor is end.output.tensor and call.name else []
    return around[-1]


def _stem(level: list[Call]) -> Call:
    stem = level[0]
    for unit in level:
        norm_and_activation = (
            isinstance(unit.module, nn.BatchNorm2d) and not unit.is_leaf
        )  # timm's BatchNormAct2d
        if not unit.is_leaf and not norm_and_activation:
            break
        stem = unit
        if unit.is_activation or norm_and_activation:
            break
    return stem


def _image_side(trace: Trace) -> float:
    return (trace.size[0] * trace.size[1]) ** 0.5


def _token_stages(trace: Trace) -> dict[str, Call]:
    """Returns the ends of the groups of transformer blocks, and the tokens before and behind all of them."""
    blocks = max(_token_groups(trace), key=len, default=[])
    if len(blocks) < 2:
        return {}
    groups = min(_GROUPS, len(blocks))
    stages = {f"stage_{k}": blocks[len(blocks) * k // groups - 1] for k in range(1, groups + 1)}
    shape = blocks[0].output.shape
    earlier = [call for call in trace.calls if call.end < blocks[0].start and call.module is not None]
    if earlier:
        same = [call for call in earlier if call.output.shape == shape]
        stages["stage_0"] = (same or earlier)[-1]
    # the final norm, not the encoder around it that returns the same tensor
    last = [call for call in trace.calls if call.module is not None and call.output.shape == shape][-1]
    stages["stage_last"] = next(
        c for c in trace.calls if c.output.tensor is last.output.tensor and c.module is not None
    )
    return stages


def _token_groups(trace: Trace) -> Iterator[list[Call]]:
    groups: dict[tuple[str, type, tuple[int, ...]], list[Call]] = {}
    for call in sorted(trace.last_calls().values(), key=lambda c: c.end):
        if call.module is not None and call.output.tensor.dim() == 3 and not call.is_leaf:
            key = (call.name.rpartition(".")[0], type(call.module), call.output.shape)
            groups.setdefault(key, []).append(call)
    yield from groups.values()
