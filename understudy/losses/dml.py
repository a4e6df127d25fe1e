"""Deep mutual learning: peers that teach each other (Zhang et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.losses.contract import check_logits, check_temperature, full_precision
from understudy.losses.kd import kd_loss


@full_precision()
def dml_loss(
    student_logits: Tensor, peer_logits: Tensor | Sequence[Tensor], temperature: float = 1.0
) -> Tensor:
    r"""Returns :math:`T^2 \mathrm{KL}(p_{peer}(T) \| p_s(T))`, averaged over peers and batch.

    Args:
        student_logits: of the network that learns in this term.
        peer_logits: of the other network, or a list with those of all others; detached.
        temperature: T, by which all logits are divided.

    Returns:
        0-d tensor, from 0 up (in nats times T²).

    Raises:
        ValueError: no peer, shapes differ or are not ``(B, C)``, logits are not floating, ``temperature <=
            0``.

    Shape:
        student_logits and each of peer_logits: ``(B, C)``; output: ``()``.

    Example:
        >>> import torch
        >>> from understudy.losses import dml_loss
        >>> mine, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> float(dml_loss(mine, mine))
        0.0
        >>> float(dml_loss(mine, [mine, other]) / dml_loss(mine, other))
        0.5

    Reference: Zhang, Xiang, Hospedales and Lu, Deep Mutual Learning, CVPR 2018. The paper has no temperature;
    1 is its loss.
    """
    peers = [peer_logits] if isinstance(peer_logits, Tensor) else list(peer_logits)
    if not peers:
        raise ValueError(
            "peer_logits must hold at least one peer, got none. Mutual learning needs two networks or more"
        )
    for peer in peers:
        check_logits(student_logits, peer, names=("student", "peer"))
    check_temperature(temperature)
    return torch.stack([kd_loss(student_logits, peer, temperature) for peer in peers]).mean()
