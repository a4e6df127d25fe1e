"""The mean over a batch, with every sample or with every class counting the same."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.contract import reduce


def batch_mean(per_sample: Tensor, target: Tensor | None, class_balanced: bool) -> Tensor:
    """Returns the mean of ``per_sample``, or the mean over present classes of the mean within each.

    Balanced, sample i weighs 1/(K n_i): K classes are present, n_i samples share its class. Counting equal
    pairs, instead of sorting into C bins, needs no number of classes and no reading on the host.

    Args:
        per_sample: one loss a sample.
        target: class numbers; needed only if ``class_balanced``.
        class_balanced: whether every present class counts the same.

    Returns:
        0-d tensor; a connected zero for an empty batch.

    Raises:
        ValueError: ``class_balanced`` without ``target``.

    Shape:
        per_sample, target: ``(B,)``; output: ``()``.
    """
    if not class_balanced or per_sample.shape[0] == 0:
        return reduce(per_sample, "mean")
    if target is None:
        raise ValueError(
            "class_balanced=True must have a target, got none. Pass the class numbers of the batch"
        )
    share = (target[:, None] == target).sum(dim=1).to(per_sample.dtype).reciprocal()  # (B,), 1/n_i
    return (share * per_sample).sum() / share.sum()  # the shares of one class sum to 1, so all sum to K
