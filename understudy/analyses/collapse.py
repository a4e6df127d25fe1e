"""Neural collapse of every head, at the end and over training."""

from __future__ import annotations

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.analysis import neural_collapse
from understudy.report.plots import Bars, Curve, Curves, Plot

_SHOWN = {
    "nc1": "NC1, spread within classes by spread between",
    "nc2_etf_means": "NC2, distance of the class means from a simplex ETF",
    "nc3": "NC3, distance of classifier rows from class means",
    "nc4": "NC4, share decided otherwise than by nearest mean",
}


def collapse(pair: Pair) -> Finding:
    """Returns NC1 to NC4 of the student's heads and of the teacher's, on un-augmented training images."""
    rows: list[tuple[int, str, dict[str, float]]] = []
    images = 0
    for epoch in pair.over_training():
        seen = pair.see("train")
        images = len(seen.target)
        for name, head in seen.heads.items():
            measures = neural_collapse(head.feature, seen.target, head.weight, head.bias)
            rows.append((epoch, name, {key: float(value) for key, value in measures.items()}))
    last = {name: measures for epoch, name, measures in rows if epoch == pair.config.train.epochs}
    keys = list(next(iter(last.values())))
    table: list[list[Value]] = [
        [epoch, name, *measures.values()]
        for epoch, name, measures in rows
        if name != "teacher" or epoch == pair.config.train.epochs
    ]
    notes = (
        f"All are 0 for a collapsed simplex ETF; classifier rows are not centred. On {images:,} training images.",
    )
    if not pair.moments:
        notes += ("The run kept no checkpoints: train.keep_checkpoints=10 shows how it went over training.",)
    return Finding(
        {f"{name}/{key}": measures[key] for name, measures in last.items() for key in _SHOWN},
        {"measures": Sheet(("epoch", "head", *keys), table)},
        tuple(_plot(key, title, rows, last, bool(pair.moments)) for key, title in _SHOWN.items()),
        notes,
    )


def _plot(
    key: str,
    title: str,
    rows: list[tuple[int, str, dict[str, float]]],
    last: dict[str, dict[str, float]],
    several: bool,
) -> Plot:
    if not several:
        return Bars(key, title, key, tuple(last), ((key, [measures[key] for measures in last.values()]),))
    epochs = sorted({epoch for epoch, _, _ in rows})
    curves = tuple(
        Curve(name, epochs, [m[key] for epoch, n, m in sorted(rows, key=lambda r: r[0]) if n == name])
        for name in last
    )
    return Curves(key, title, "epoch", key, curves, logarithmic=True)
