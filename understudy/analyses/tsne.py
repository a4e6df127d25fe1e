"""t-SNE of the features (DKD Fig. 3, DHKD Fig. 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.analyses.contract import Finding, NotApplicableError, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.data.subsets import balanced
from understudy.report.plots import Cloud, Plot

MOST = 2000
"""Images that are embedded, as many of every class."""
PERPLEXITY = 30.0


def tsne(pair: Pair) -> Finding:
    """Returns both networks' features of the test images in two dimensions, and how apart the classes are."""
    from sklearn.metrics import silhouette_score  # seconds to import

    seen = pair.see("test")
    kept = torch.arange(len(seen.target))
    if len(kept) > MOST:
        kept = balanced(seen.target, MOST, 0)
    target = seen.target[kept]
    if len(kept) < 10 or len(target.unique()) < 2:
        raise NotApplicableError(
            "it needs at least 10 test images of two classes, got fewer. Use more test images"
        )
    numbers: dict[str, float] = {}
    sheets: dict[str, Sheet] = {}
    plots: list[Plot] = []
    for name in [name for name in ("student", "teacher") if name in seen.heads]:
        feature = seen.heads[name].feature[kept].double()
        if len(target.unique()) < len(kept):  # else no image has another of its class
            numbers[f"{name}/silhouette"] = float(silhouette_score(feature.numpy(), target.numpy()))
        points = embed(feature)
        rows: list[list[Value]] = [
            [pair.classes[c], x, y] for c, (x, y) in zip(target.tolist(), points.tolist(), strict=True)
        ]
        sheets[name] = Sheet(("class", "x", "y"), rows)
        title = f"t-SNE of the {name}'s features"
        plots.append(Cloud(name, title, points.numpy(), target.numpy(), pair.classes))
    note = (
        f"{len(kept):,} test images. Perplexity {PERPLEXITY:g} (a third of the images where that is less), seed 0, "
        "features as they are. Distances between clusters mean nothing. silhouette is that of the features themselves, "
        "from −1 to 1."
    )
    return Finding(numbers, sheets, tuple(plots), (note,))


def embed(feature: Tensor) -> Tensor:
    """Returns t-SNE's points ``(N, 2)`` of features ``(N, D)``, always the same ones on one machine."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(feature) - 1) / 3)
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(feature.numpy())
    return torch.from_numpy(found).double()
