"""Did it help? Teacher, student alone and every method under one budget, over seeds, with a plain verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table

from understudy.config import ArmConfig, Config, StudyConfig, load_config
from understudy.engine.console import Console
from understudy.engine.launch import launched
from understudy.files import locked, write_json
from understudy.job import finished
from understudy.methods.presets import preset
from understudy.metrics import paired_difference, summarise, verdict
from understudy.report import write_study_report
from understudy.run import Source, distill, train

METRIC = "test/acc1"
ALONE = "student alone"
TEACHER = "teacher"


@dataclass(frozen=True, slots=True)
class Study:
    """A finished study."""

    path: Path
    table: dict[str, Any]
    """The content of ``study.json``."""


def study(
    source: Source, *, quiet: bool = False, title: str = "Did distillation help?", **overrides: Any
) -> Study:
    """Runs teacher, student alone and every method of ``study.methods`` over ``study.seeds``.

    A teacher without weights is trained first, on the same data and budget. Finished runs of the same config are
    reused, unfinished ones resumed, so a study that was stopped goes on when it is started again.

    Args:
        source: a config with ``teacher:`` and ``study:``.
        quiet: print nothing but the table.
        title: headline of the report.
        overrides: dotted keys.

    Raises:
        ValueError: the config is wrong, or there are no test images to compare on.
    """
    if launched() is not None:
        raise ValueError(
            "study must be started as one process, got several (torchrun or srun). Start it without; single runs "
            "(train, distill) may use several"
        )
    config = load_config(source, overrides)
    if config.teacher is None:
        raise ValueError(
            "study must have a teacher, got none. Add teacher: {model: ...}; without weights it is trained first"
        )
    began, folder, plan = time.perf_counter(), Path(config.output), config.study or StudyConfig()
    arms = [_arm(entry, config) for entry in plan.methods]
    with locked(folder):
        base = _single(config)
        teacher = _teacher(base, folder / TEACHER, quiet)
        base = base.replaced(**{"teacher.weights": teacher["weights"]}) if teacher["weights"] else base
        alone = [_run("train", base, folder, ALONE, seed, {}, quiet) for seed in plan.seeds]
        rows = [_row(ALONE, base.student.model, "labels", alone)]
        for arm in arms:
            changes = {"losses": arm.losses, "gradients.align": arm.gradients.align}
            runs = [_run("distill", base, folder, arm.name, seed, changes, quiet) for seed in plan.seeds]
            method = " + ".join(str(term["name"]) for term in arm.losses)
            rows.append(_row(arm.name, base.student.model, method, runs))
        table = {
            "format": 1,
            "title": title,
            "what": _what(base, plan),
            "metric": METRIC,
            "seconds": round(time.perf_counter() - began, 1),
            "arms": [teacher["row"] or _given_teacher(base, rows), *rows],
            "verdicts": _verdicts(rows),
            "config": config.yaml(),
        }
        write_json(folder / "study.json", table)
        report = write_study_report(folder)
    _print(table, report)
    return Study(folder, table)


def _arm(entry: str | ArmConfig, base: Config) -> ArmConfig:
    if isinstance(entry, ArmConfig):
        return entry
    teacher = None if base.teacher is None else base.teacher.model
    chosen = preset(entry, base.data.name, teacher, base.student.model)
    return ArmConfig.model_validate(
        {"name": entry, "losses": list(chosen.losses), "gradients": {"align": chosen.align}}
    )


def _single(config: Config) -> Config:
    """Returns the config of one run of the study: one order, one set of views and one folder of tables for all."""
    assert config.teacher is not None
    seed = config.seed if config.data.seed is None else config.data.seed
    tables = config.teacher.tables or str(Path(config.output) / "tables")
    return config.replaced(study=None, **{"data.seed": seed, "teacher.tables": tables})


def _teacher(base: Config, folder: Path, quiet: bool) -> dict[str, Any]:
    """Trains the teacher if it has no weights; returns its weights and its row of the table."""
    assert base.teacher is not None
    if base.teacher.weights is not None or base.teacher.pretrained:
        return {"weights": None, "row": None}
    own = base.replaced(output=str(folder), student=base.teacher.network().model_dump())
    result = finished(own) or train(own, quiet=quiet).metrics
    row = _row(TEACHER, own.student.model, "labels", [_entry(base.seed, folder.name, result)])
    return {"weights": str(folder / "student.safetensors"), "row": row}


def _run(
    verb: str, base: Config, folder: Path, name: str, seed: int, changes: dict[str, Any], quiet: bool
) -> dict[str, Any]:
    """Returns the result of one arm and seed, from its folder if it is finished there."""
    path = folder / name.replace(" ", "-") / f"seed-{seed}"
    config = base.replaced(seed=seed, output=str(path), **changes)
    Console(quiet=quiet).say(f"— {name}, seed {seed}")
    result = finished(config) or (train if verb == "train" else distill)(config, quiet=quiet).metrics
    return _entry(seed, str(path.relative_to(folder)), result)


def _entry(seed: int, path: str, result: dict[str, Any]) -> dict[str, Any]:
    if METRIC not in result["last"]:
        raise ValueError("a study must have test images to compare on, got data without any. Set data.test")
    return {
        "seed": seed,
        "path": path,
        METRIC: result["last"][METRIC],
        "seconds": result["seconds"],
        "parameters": result["parameters"],
        "teacher": result.get("teacher"),
    }


def _given_teacher(base: Config, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the row of a teacher that came with weights: the distilled runs have measured it."""
    assert base.teacher is not None
    measured = next((run["teacher"] for row in rows for run in row["runs"] if run["teacher"]), None)
    runs = [] if measured is None else [{"seed": 0, METRIC: measured[METRIC], "seconds": None}]
    parameters = None if measured is None else measured["parameters"]
    return {
        "name": TEACHER,
        "model": base.teacher.model,
        "parameters": parameters,
        "method": "given",
        "runs": runs,
    }


def _row(name: str, model: str, method: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "model": model, "parameters": runs[0]["parameters"], "method": method, "runs": runs}


def _verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """Compares every method with the student alone, and every method but KD with KD."""
    values = {row["name"]: [run[METRIC] for run in row["runs"]] for row in rows}
    methods = [name for name in values if name != ALONE]
    pairs = [(name, ALONE) for name in methods] + [
        (name, "kd") for name in methods if name != "kd" and "kd" in values
    ]
    return [verdict(a, b, paired_difference(values[a], values[b])) for a, b in pairs]


def _what(config: Config, plan: StudyConfig) -> str:
    data, assumed = config.data, config.train
    limit = f"{data.limit} training images" if data.limit else "all training images"
    teacher = config.teacher.model if config.teacher else "none"
    return (
        f"Student {config.student.model} under teacher {teacher} on {data.name} ({limit}), {assumed.epochs} epochs of "
        f"batch {assumed.batch_size}, seeds {', '.join(map(str, plan.seeds))}. All runs share one order and one set of "
        "views (data.seed), so the seeds vary initialisation and dropout. The number is top-1 accuracy on the test "
        "images after the last epoch; nothing was chosen on them."
    )


def _print(table: dict[str, Any], report: Path) -> None:
    grid = Table(title=table["title"], title_justify="left")
    for column, side in (
        ("", "left"),
        ("model", "left"),
        ("parameters", "right"),
        ("test top-1", "right"),
        ("seconds", "right"),
    ):
        grid.add_column(column, justify=side)  # pyright: ignore[reportArgumentType]
    for row in table["arms"]:
        values = [run[METRIC] for run in row["runs"]]
        if not values:
            continue
        line = summarise(values)
        spread = f" ± {line.std:.2f}" if line.std is not None else ""
        seconds = [run["seconds"] for run in row["runs"] if run["seconds"] is not None]
        time_spent = f"{sum(seconds) / len(seconds):.1f}" if seconds else "–"
        grid.add_row(
            row["name"], row["model"], f"{row['parameters']:,}", f"{line.mean:.2f}{spread}", time_spent
        )
    console = RichConsole(highlight=False, soft_wrap=True)
    console.print(grid)
    for line in table["verdicts"]:
        console.print(line, markup=False)
    console.print(f"report: {report}", markup=False)
