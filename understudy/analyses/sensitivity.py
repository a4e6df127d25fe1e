"""How much a setting matters: students trained over its values (α, β, τ and whatever else a config holds)."""

from __future__ import annotations

import io
import statistics
from contextlib import redirect_stdout
from typing import Any

from understudy.analyses.contract import Finding, NotApplicableError, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.config import ArmConfig, Config
from understudy.report.plots import Curve, Curves
from understudy.report.summary import ALONE
from understudy.scaling import scaled
from understudy.study import study


def sensitivity(pair: Pair) -> Finding:
    """Returns test accuracy over the values of ``sweep.setting``: a study with an arm a value, in ``OUT/sweep``."""
    sweep = pair.options.sweep
    assert sweep.setting is not None  # it is among the needs
    config = pair.config
    if sweep.epochs is not None:  # milestones and ramps move with the end
        config = scaled(config.replaced(study=None), min(1.0, sweep.epochs / config.train.epochs))
    arms = [_arm(config, sweep.setting, value) for value in sweep.values]
    changes: dict[str, Any] = {
        "study": {"methods": [arm.model_dump(mode="json") for arm in arms], "seeds": list(sweep.seeds)},
        "output": str(pair.options.out / "sweep" / sweep.setting.replace(".", "-")),
    }
    if sweep.epochs is not None:
        changes["train.epochs"] = sweep.epochs
    with redirect_stdout(io.StringIO()):  # its table is ours, and its page stands in its folder
        table = study(config.replaced(**changes), quiet=True, title=f"Sweep of {sweep.setting}").table
    scores = {
        row["name"]: {
            run["seed"]: run[table["metric"]] for run in row["runs"] if run[table["metric"]] is not None
        }
        for row in table["arms"]
    }
    names = [arm.name for arm in arms]
    means = {name: statistics.fmean(scores[name].values()) for name in names if scores[name]}
    if not means or not scores[ALONE]:
        raise NotApplicableError(
            "it needs runs that end, got a sweep in which they diverged. Lower the values"
        )
    rows: list[list[Value]] = [
        [str(value), means.get(name), *(scores[name].get(seed) for seed in sweep.seeds)]
        for value, name in zip(sweep.values, names, strict=True)
    ]
    numbers = means | {"spread": max(means.values()) - min(means.values())}
    numeric = all(isinstance(value, int | float) for value in sweep.values)
    places = [float(value) for value in sweep.values] if numeric else list(map(float, range(len(names))))
    x = [place for place, name in zip(places, names, strict=True) if name in means]
    alone = statistics.fmean(scores[ALONE].values())
    plot = Curves(
        "accuracy",
        f"Test accuracy over {sweep.setting}, %",
        sweep.setting if numeric else "number of the value in the table",
        "%",
        (Curve("distilled", x, list(means.values())), Curve("student alone", x, [alone] * len(x))),
    )
    columns = ("value", "mean", *(f"seed_{seed}" for seed in sweep.seeds))
    notes = (
        f"Seeds {', '.join(map(str, sweep.seeds))}; every run has its report under sweep/. "
        f"{sum(len(sweep.seeds) - len(scores[name]) for name in names)} of them diverged and are left out. "
        "A value chosen by test accuracy makes that accuracy a choice on the test images: hold out data.val to choose.",
    )
    return Finding(numbers, {"values": Sheet(columns, rows)}, (plot,), notes)


def _arm(config: Config, setting: str, value: Any) -> ArmConfig:
    """Returns the run's own terms with one setting changed.

    Raises:
        ValueError: the setting is none of the terms or of the alignment, or cannot have this value.
    """
    if not setting.startswith(("losses.", "gradients.")):
        raise ValueError(
            f"sweep.setting must be a setting of losses or gradients, got {setting!r}. Try losses.1.weight"
        )
    changed = config.replaced(**{setting: value})
    name = f"{setting}={value}".replace("/", "-")
    return ArmConfig(name=name, losses=changed.losses, gradients=changed.gradients)
