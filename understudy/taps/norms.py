"""The batch norm in front of a stage's last activation, which OFD's margin is computed from."""

from __future__ import annotations

from torch import nn

from understudy.interface import Network
from understudy.taps.trace import Call, Trace


def norm_before(network: Network, k: int) -> nn.BatchNorm2d:
    """Returns the batch norm that makes the pre-activation of stage ``k``, alone or as a side of an addition.

    In a residual block whose shortcut is normalised too, it is that of the longer branch (``bn2`` or ``bn3``
    of the block's convolutions), as the authors of OFD choose it. A stage that ends without an activation has
    one only if it is itself a batch norm. ``taps: {norm_k: PATH}`` in the config names another.

    Args:
        network: as :func:`understudy.taps.describe` returns it.
        k: number of the stage, 0 for the stem.

    Raises:
        ValueError: there is none; the message names the batch norms nearby.

    Reference: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, section 3.2 (the
    margin).
    """
    if (path := network.paths.get(f"norm_{k}")) is not None:
        norm = network.module.get_submodule(path)
        assert isinstance(norm, nn.BatchNorm2d)
        return norm
    near = network.paths.get(f"stage_{k}", "")
    norms = [path for path, m in network.module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    while near and not any(path.startswith(near) for path in norms):
        near = near.rpartition(".")[0]
    found = [path for path in norms if path.startswith(near)]
    raise ValueError(
        f"stage {k} of {type(network.module).__name__} must have a batch norm in front of its last "
        f"activation, got none; nearby are {', '.join(found[-8:]) or 'none'}. Name one in the config, "
        f"taps: {{norm_{k}: PATH}}, or take another method"
    )


def find_norm(trace: Trace, stage: Call, activation: Call | None) -> Call | None:
    """Returns the call of that batch norm in a dry run.

    Args:
        trace: the dry run.
        stage: the call that ends the stage.
        activation: the activation it ends with, if any.
    """
    if activation is None:
        return stage if _is_norm(stage) else None
    shown = activation.inputs[0]
    around = [call for call in trace.calls if call.encloses(activation) and _is_norm(call)]
    if around:  # a norm with its activation inside, as timm's BatchNormAct2d
        return around[0]
    producer = trace.producer(shown, activation)
    if producer is None or _is_norm(producer):
        return producer
    if not producer.is_addition:
        return None
    sides = [trace.producer(operand, producer) for operand in producer.inputs]
    norms = [side for side in sides if side is not None and _is_norm(side)]
    return max(norms, key=lambda norm: _depth(trace, norm), default=None)


def _is_norm(call: Call) -> bool:
    return isinstance(call.module, nn.BatchNorm2d)


def _depth(trace: Trace, call: Call) -> int:
    """Returns how many layers lie between a call and the last branching or merging before it."""
    depth = 0
    before: Call | None = call
    while before is not None and not before.is_addition and before.inputs:
        before, depth = trace.producer(before.inputs[0], before), depth + 1
    return depth
