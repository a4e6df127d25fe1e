"""Did it help? Teacher, student alone and every method under one budget, over seeds, with a plain verdict."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from understudy.build import build, process, read_data, untrained, with_label_noise
from understudy.config import ArmConfig, Config, StudyConfig, load_config
from understudy.engine.console import Console
from understudy.engine.launch import launched
from understudy.engine.loop import InterruptedRunError, stopped_by_signals
from understudy.files import locked, write_json
from understudy.guidance import check_tables, kept, one_precision, tables_folder
from understudy.job import check_begins, finished
from understudy.methods.presets import preset
from understudy.pool import Runs, Task
from understudy.report import write_study_report
from understudy.report.published import Published, published
from understudy.report.summary import ALONE, TEACHER, arm_lines, verdicts
from understudy.report.text_tables import FILES, shown, write_tables
from understudy.run import Source, train
from understudy.tasks import task_named

_WIDE = 140  # columns of a terminal that shows the whole table
_COSTS = ("model", "parameters", "extra in training", "peak MiB", "published")  # left to the report elsewhere


@dataclass(frozen=True, slots=True)
class Study:
    """A finished study."""

    path: Path
    table: dict[str, Any]
    """The content of ``study.json``."""


def study(
    source: Source,
    *,
    workers: int = 1,
    quiet: bool = False,
    title: str = "Did distillation help?",
    remark: str = "",
    known: Mapping[str, Sequence[Published]] | None = None,
    **overrides: Any,
) -> Study:
    """Runs teacher, student alone and every method of ``study.methods`` over ``study.seeds``.

    A teacher without weights is trained first, on the same data and budget. Finished runs of the same config are
    reused, unfinished ones resumed, so a study that was stopped goes on when it is started again. A run that diverged
    counts, without a score; delete its folder to try it again. The folder gets ``study.json``, ``table.csv``,
    ``runs.csv``, ``table.md``, ``table.tex`` and ``report.html`` with its figures.

    Args:
        source: a config with ``teacher:`` and ``study:``.
        workers: how many runs at once, each in a process of its own, with an equal share of the cores unless
            ``train.threads`` is given. Another share of the cores may change results by rounding.
        quiet: print nothing but the table.
        title: headline of the report.
        remark: what must be said beside the table, on the page and in every file.
        known: published numbers by arm; by default those of the data set and the pair.
        overrides: dotted keys.

    Returns:
        the folder, and the content of ``study.json``.

    Raises:
        ValueError: the config is wrong, or there are no test images to compare on.
        InterruptedRunError: asked to stop; every run has left a checkpoint.
    """
    if launched() is not None:
        raise ValueError(
            "study must be started as one process, got several (torchrun or srun). Start it without; single runs "
            "(train, distill) may use several"
        )
    config = load_config(source, overrides)
    if config.teacher is None:
        raise ValueError(
            f"study must have one teacher, got {len(config.guides) or 'none'}. Give it as teacher: {{model: ...}}; "
            "without weights it is trained first"
        )
    if config.assistants or config.generations > 1 or config.train.seeds is not None:
        raise ValueError(
            "study must be of single runs, got assistants, generations or train.seeds. Leave them out; study.seeds "
            "says how often each is run"
        )
    if (Path(config.output) / "config.yaml").exists():
        raise ValueError(
            f"output must be a new folder or this study's own, got {config.output}, which holds a run. Choose another "
            "output="
        )
    plan = config.study or StudyConfig()
    arms = [arm_config(entry, config) for entry in plan.methods]
    _check(workers, arms)
    check_tables(config, {arm.name: arm.losses for arm in arms})
    folder, console = Path(config.output), Console(quiet=quiet)
    learns = _learns(config, [arm for arm in arms if not _finished(folder, arm, plan.seeds)])
    with locked(folder), stopped_by_signals():  # teacher and runs: one signal is for all
        try:
            base = _single(config)
            teacher = _teacher(base, learns, folder / TEACHER, quiet, plan.metric)
            if teacher["weights"]:
                base = base.replaced(**{"teacher.weights": teacher["weights"], "teacher.pretrained": False})
            for arm in arms[:1]:
                first = base.replaced(losses=arm.losses, gradients=arm.gradients.model_dump())
                base = base.replaced(**one_precision(first, sorted(folder.glob("*/seed-*/config.yaml"))))
            tasks = _tasks(base, folder, arms, plan.seeds)
            results = Runs([task for _, _, task in tasks], workers, console.say, quiet)()
        except InterruptedRunError:
            console.say("stopped; the same command goes on from here")
            raise
        rows = _rows(base, folder, arms, tasks, results, plan.metric)
        metric = plan.metric or metric_of(results[0])
        table: dict[str, Any] = {
            "format": 1,
            "title": title,
            "what": " ".join(filter(None, (_what(base, plan, results[0]), remark))),
            "metric": metric,
            "workers": workers,
            "arms": [teacher["row"] or _given_teacher(base, rows, metric), *rows],
            "config": config.yaml(),
        }
        spent = [run["seconds"] or 0.0 for row in table["arms"] for run in row["runs"]]
        table["seconds"] = round(sum(spent), 1)  # of training, however often the study was stopped
        if metric in ("test/acc1", "test/ap"):  # which is what is printed
            _add_published(table["arms"], _published(base) if known is None else known)
        table["verdicts"] = verdicts(arm_lines(table))
        write_json(folder / "study.json", table)
        write_tables(folder, table)
        report = write_study_report(folder, figures=True)
    show(table)
    print(f"report: {report}")
    return Study(folder, table)


def show(table: dict[str, Any]) -> None:
    """Prints a study's table and verdicts."""
    console = RichConsole(highlight=False)
    heads, rows = shown(arm_lines(table), table["metric"])
    kept = [i for i, head in enumerate(heads) if console.width >= _WIDE or head not in _COSTS]
    grid = Table(title=Text(table["title"]), title_justify="left")
    for i in kept:
        grid.add_column(
            Text(heads[i]), justify="left" if heads[i] in ("", "model") else "right", no_wrap=i > 0
        )
    for row in rows:
        grid.add_row(*(Text(row[i]) for i in kept))
    console.print(grid)
    for line in table["verdicts"]:
        console.print(line, markup=False, soft_wrap=True)


def _check(workers: int, arms: list[ArmConfig]) -> None:
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}. 1 runs one after another")
    taken = {*map(folder_name, (ALONE, TEACHER)), "study.json", "report.html", "figures", *FILES}
    for arm in arms:
        if folder_name(arm.name) in taken:
            raise ValueError(
                f"study.methods must have names of their own, got {arm.name!r}, which is taken. Name it "
                "otherwise: {name: OTHER, losses: [...]}"
            )
        taken.add(folder_name(arm.name))
    names = [str(term.get("name")) for arm in arms for term in arm.losses]
    local = [name for name in names if name.startswith("__main__:")]
    if workers > 1 and local:
        raise ValueError(
            f"several workers must be able to import every method, got {local[0]!r}. "
            "Put the class into a module, or set workers to 1"
        )


def _learns(config: Config, arms: Sequence[ArmConfig]) -> bool:
    """Returns whether the teacher still has to learn; builds every arm that has runs to make once.

    So nothing is trained if one does not fit. The images are let go of: every run reads them for itself, and a study
    goes on for days.
    """
    assert config.teacher is not None
    with process(config) as device:
        data = with_label_noise(read_data(config.data), config)
        if data.test is None:
            raise ValueError(
                "a study must have test images to compare on, got data without any. Set data.test"
            )
        for arm in arms:
            one = config.replaced(losses=arm.losses, gradients=arm.gradients.model_dump())
            check_begins(one)
            distiller = build(one, device, data).distiller
            distiller.close()
            known = [f"test/{score}" for score in distiller.task.titles]
            metric = (config.study or StudyConfig()).metric
            if metric is not None and metric not in known:
                raise ValueError(f"study.metric must be one of {', '.join(known)}, got {metric}. Correct it")
        return untrained(config.teacher, data)


def _finished(folder: Path, arm: ArmConfig, seeds: Sequence[int]) -> bool:
    return all((folder / folder_name(arm.name) / f"seed-{seed}" / "result.json").is_file() for seed in seeds)


def _tasks(
    base: Config, folder: Path, arms: list[ArmConfig], seeds: list[int]
) -> list[tuple[str, int, Task]]:
    """Returns every run as arm, seed and task; one seed of all arms after the other, so that all arms fill up alike."""
    alike = [kept(arm.losses) for arm in arms]
    tasks = []
    for seed in seeds:
        for name, verb, runs, changes in [
            (ALONE, "train", 1, {}),
            *(
                (
                    arm.name,
                    "distill",
                    len(seeds) * alike.count(kept(arm.losses)),
                    {"losses": arm.losses, "gradients": arm.gradients.model_dump()},
                )
                for arm in arms
            ),
        ]:
            output = folder / folder_name(name) / f"seed-{seed}"
            config = base.replaced(seed=seed, output=str(output), **changes)
            tasks.append((name, seed, Task(f"{name}, seed {seed}", verb, config, runs=runs)))
    return tasks


def folder_name(arm: str) -> str:
    """Returns the folder of an arm: its name, as far as any file system takes it.

    Example:
        >>> from understudy.study import folder_name
        >>> folder_name("student alone"), folder_name("kd++"), folder_name("../x")
        ('student-alone', 'kd++', '..-x-d6b96a97')
    """
    plain = re.sub(r"[^\w.+-]+", "-", arm)
    if plain == arm.replace(" ", "-") and len(plain) <= 64 and plain.strip("."):
        return plain
    return f"{plain[:48]}-{hashlib.sha256(arm.encode()).hexdigest()[:8]}"


def _rows(
    base: Config,
    folder: Path,
    arms: list[ArmConfig],
    tasks: list[tuple[str, int, Task]],
    results: list[dict[str, Any]],
    metric: str | None,
) -> list[dict[str, Any]]:
    """Returns the students' rows of the table."""
    methods = {ALONE: "labels"} | {arm.name: " + ".join(str(t["name"]) for t in arm.losses) for arm in arms}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    for (name, seed, task), result in zip(tasks, results, strict=True):
        path = Path(task.config.output).relative_to(folder)
        runs[name].append(entry(seed, str(path), result, metric))
    return [_row(name, base.student.model, method, runs[name]) for name, method in methods.items()]


def _published(config: Config) -> dict[str, tuple[Published, ...]]:
    """Returns what papers report for this data set and pair."""
    assert config.teacher is not None
    return published(config.data.name, config.teacher.model, config.student.model)


def _add_published(rows: list[dict[str, Any]], known: Mapping[str, Sequence[Published]]) -> None:
    """Adds published numbers to the arms that have some."""
    for row in rows:
        if row["name"] in known:
            row["published"] = [asdict(entry) for entry in known[row["name"]]]


def arm_config(entry: str | ArmConfig, base: Config) -> ArmConfig:
    """Returns a method of ``study.methods`` or ``tune.methods`` with its terms, a preset's for this data and pair.

    A preset's cross-entropy has the settings (``label_smoothing``, ``class_weights``) of the config's own, as the
    student alone has them.
    """
    if isinstance(entry, ArmConfig):
        return entry
    teacher = None if base.teacher is None else base.teacher.model
    chosen = preset(entry, base.data.name, teacher, base.student.model)
    labels = next((term for term in base.losses if term["name"] == "ce"), {})
    own = {key: value for key, value in labels.items() if key not in ("weight", "label", "teacher")}
    losses = [{**own, **term} if term["name"] == "ce" else dict(term) for term in chosen.losses]
    return ArmConfig.model_validate({"name": entry, "losses": losses, "gradients": {"align": chosen.align}})


def _single(config: Config) -> Config:
    """Returns the config of one run of the study: one order, one set of views and one folder of tables for all."""
    assert config.teacher is not None
    seed = config.seed if config.data.seed is None else config.data.seed
    tables = str(tables_folder(config.teacher, Path(config.output)))
    return config.replaced(study=None, **{"data.seed": seed, "teacher.tables": tables})


def _teacher(base: Config, learns: bool, folder: Path, quiet: bool, metric: str | None) -> dict[str, Any]:
    """Trains the teacher if it still has to learn; returns its weights and its row of the table."""
    assert base.teacher is not None
    if not learns:
        return {"weights": None, "row": None}
    own = base.replaced(output=str(folder), student=base.teacher.network().model_dump())
    result = finished(own) or train(own, quiet=quiet).metrics
    row = _row(TEACHER, own.student.model, "labels", [entry(base.seed, folder.name, result, metric)])
    return {"weights": str(folder / "student.safetensors"), "row": row}


def metric_of(result: Mapping[str, Any]) -> str:
    """Returns what runs are compared by: the first score of their task on the test images, in percent."""
    return f"test/{task_named(result.get('task')).primary}"


def entry(seed: int, path: str, result: dict[str, Any], metric: str | None = None) -> dict[str, Any]:
    """Returns one run of a row of ``study.json``, from its ``result.json``; without a score if it diverged."""
    asked, metric = metric, metric or metric_of(result)
    if result["status"] == "finished" and metric not in result["last"]:
        if asked is not None and metric_of(result) in result["last"]:
            known = ", ".join(key for key in result["last"] if key.startswith("test/"))
            raise ValueError(f"study.metric must be one of {known}, got {asked}. Correct it")
        raise ValueError("a study must have test images to compare on, got data without any. Set data.test")
    teacher = result.get("teacher") or {}
    return {
        "seed": seed,
        "path": path,
        "status": result["status"],
        metric: result["last"].get(metric),
        "seconds": result["seconds"],
        "peak_memory_mib": result.get("peak_memory_mib"),
        "parameters": result["parameters"],
        "extra_parameters": result.get("extra_parameters"),
        "agreement": teacher.get("agreement"),
        "teacher": {key: teacher[key] for key in (metric, "parameters") if key in teacher},
    }


def _given_teacher(base: Config, rows: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """Returns the row of a teacher that came with weights: the distilled runs have measured it."""
    assert base.teacher is not None
    measured = next((run["teacher"] for row in rows for run in row["runs"] if metric in run["teacher"]), None)
    runs = [] if measured is None else [{"seed": 0, metric: measured[metric], "seconds": None}]
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


def _what(config: Config, plan: StudyConfig, result: Mapping[str, Any]) -> str:
    task = task_named(result.get("task"))
    number = "top-1 accuracy" if task.primary == "acc1" else task.titles[task.primary]
    data, assumed = config.data, config.train
    limit = f"{data.limit} training images" if data.limit else "all training images"
    teacher = config.teacher.model if config.teacher else "none"
    return (
        f"Student {config.student.model} under teacher {teacher} on {data.name} ({limit}), {assumed.epochs} epochs of "
        f"batch {assumed.batch_size}, seeds {', '.join(map(str, plan.seeds))}. All runs share one order and one set of "
        f"views (data.seed), so the seeds vary initialisation and dropout. The number is "
        f"{plan.metric or number} on the test images after the last epoch; nothing was chosen on them."
    )
