"""How much a setting matters: students trained over its values (α, β, τ and whatever else a config holds)."""

from __future__ import annotations

import io
import statistics
from contextlib import redirect_stdout
from typing import Any

from understudy.analyses.contract import Finding, Sheet, Value
from understudy.analyses.pair import Pair
from understudy.config import ArmConfig, Config
from understudy.report.plots import Curve, Curves
from understudy.study import study


def sensitivity(pair: Pair) -> Finding:
    """Returns test accuracy over the values of ``sweep.setting``: a study with an arm a value, in ``OUT/sweep``."""
    sweep = pair.options.sweep
    assert sweep.setting is not None  # it is among the needs
    arms = [_arm(pair.config, sweep.setting, value) for value in sweep.values]
    changes: dict[str, Any] = {
        "study": {"methods": [arm.model_dump(mode="json") for arm in arms], "seeds": list(sweep.seeds)},
        "output": str(pair.options.out / "sweep" / sweep.setting.replace(".", "-")),
    }
    if sweep.epochs is not None:
        changes["train.epochs"] = sweep.epochs
    with redirect_stdout(io.StringIO()):  # its table is ours, and its page stands in its folder
        table = study(pair.config.replaced(**changes), quiet=True, title=f"Sweep of {sweep.setting}").table
    scores = {row["name"]: [run[table["metric"]] for run in row["runs"]] for row in table["arms"]}
    names = [arm.name for arm in arms]
    means = [statistics.fmean(scores[name]) for name in names]
    rows: list[list[Value]] = [
        [str(v), m, *scores[n]] for v, n, m in zip(sweep.values, names, means, strict=True)
    ]
    numbers = dict(zip(names, means, strict=True)) | {"spread": max(means) - min(means)}
    numeric = all(isinstance(value, int | float) for value in sweep.values)
    x = [float(value) for value in sweep.values] if numeric else list(map(float, range(len(names))))
    alone = statistics.fmean(scores["student alone"])
    plot = Curves(
        "accuracy",
        f"Test accuracy over {sweep.setting}, %",
        sweep.setting if numeric else "number of the value in the table",
        "%",
        (Curve("distilled", x, means), Curve("student alone", x, [alone] * len(x))),
    )
    columns = ("value", "mean", *(f"seed_{seed}" for seed in sweep.seeds))
    notes = (
        f"Seeds {', '.join(map(str, sweep.seeds))}; every run has its report under sweep/. "
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
