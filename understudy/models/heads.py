"""Another number of classes for a network that exists: its last linear layer starts anew."""

from __future__ import annotations

from torch import nn


def replace_head(net: nn.Module, name: str, old: int, new: int) -> str:
    """Gives a network ``new`` classes, in place, and returns the path of its head.

    The head keeps its weights if there are ``new`` classes already.

    Args:
        net: whose last linear layer makes the logits.
        name: of the network, for messages.
        old: number of its classes.
        new: number of classes wanted.

    Raises:
        ValueError: the last linear layer does not make ``old`` logits.
    """
    linear = [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != old:
        raise ValueError(
            f"{name} must end in a linear layer of {old} classes to be given others, "
            f"got num_classes {new}. Take num_classes {old}, or pretrained: false"
        )
    path, head = linear[-1]
    if new != old:
        place = {"device": head.weight.device, "dtype": head.weight.dtype}
        net.set_submodule(path, nn.Linear(head.in_features, new, bias=head.bias is not None, **place))
    return path
