"""Which method, with which settings? A search by Optuna, judged on images held out of train."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from understudy.build import build, process, read_data, untrained, with_label_noise
from understudy.config import ArmConfig, Config, TuneConfig, differences, load_config
from understudy.engine.console import Console
from understudy.engine.launch import launched
from understudy.engine.loop import InterruptedRunError, stopped_by_signals
from understudy.files import locked, write_json, write_text
from understudy.guidance import check_tables, one_precision, tables_folder
from understudy.job import DATABASE, check_begins
from understudy.methods.term import label_terms
from understudy.report.summary import ALONE
from understudy.run import Source
from understudy.search import Search, in_words
from understudy.space import Contender, check_space, contender
from understudy.study import arm_config
from understudy.tasks import TASKS, held_out_score
from understudy.trial import STATUS, require_optuna, score_of, train_unseen

RACE: tuple[str | ArmConfig, ...] = (
    ArmConfig(name=ALONE, losses=[{"name": "ce"}]),
    *("kd", "dkd", "dhkd", "kd++", "reviewkd"),
)
"""Who takes part in ``tune --auto``: no teacher, logits in three ways, the feature's direction, maps."""
HELD_OUT = 0.1
"""Share of the training images that is held out where the config says none."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """A finished search."""

    path: Path
    best: Config
    """The content of ``best.yaml``: ready for :func:`understudy.distill`, without a teacher for
    :func:`understudy.train`."""
    table: dict[str, Any]
    """The content of ``tune.json``."""


def tune(
    source: Source, *, auto: bool = False, workers: int = 1, quiet: bool = False, **overrides: Any
) -> Tuned:
    """Searches settings, or the method as well, for the best score on images held out of train.

    Every method is first tried as written (a preset's published settings), then Optuna's tree-structured Parzen
    estimator proposes. Trials share order, views, split and initialisation (``seed``) and the teacher's tables; those
    that fall behind are stopped early (``tune.pruner``). Test images are never measured. A teacher without weights is
    trained first. The study is kept in ``study.db``: a search that was stopped goes on when it is started again, its
    trials from their checkpoints. With one worker it is a function of the config; with several also of who is first.

    Args:
        source: a config; ``tune:`` is optional.
        auto: race the student alone, KD, DKD, DHKD, KD++ and ReviewKD; the config's own losses take no part.
        workers: how many trials at once, each in a process of its own.
        quiet: print nothing but the summary.
        overrides: dotted keys.

    Returns:
        the search; its folder gets ``best.yaml``, ``tune.json`` and ``trials.csv``.

    Raises:
        ValueError: the config is wrong, a package is missing, or every trial diverged.
        InterruptedRunError: asked to stop; the same command goes on.
    """
    require_optuna()
    config = _planned(load_config(source, overrides), auto)
    _check(config, workers)
    plan = config.tune or TuneConfig()
    folder, console = Path(config.output), Console(quiet=quiet)
    base = _base(config)
    if config.data.val == 0:
        console.say(f"data.val was 0: {HELD_OUT:.0%} of the training images are held out to judge by")
    contenders, held_out = _contenders(base, plan, auto, console)
    with locked(folder), stopped_by_signals():  # teacher and trials: one signal is for all
        _claim(folder, config)
        for one in contenders:
            console.say(f"{one.name}: {', '.join(s.describe() for s in one.settings) or 'nothing to change'}")
        try:
            teacher = _teacher(base, folder, console)
            learners = [c.config.replaced(**teacher) for c in contenders if c.config.teacher is not None]
            if learners:
                teacher |= one_precision(learners[-1], sorted(folder.glob("trials/*/config.yaml")))
            contenders = [Contender(c.name, c.config.replaced(**teacher), c.settings) for c in contenders]
            search = Search(folder, plan, contenders, workers, console)
            search()
        except InterruptedRunError:
            console.say("stopped; the same command goes on from here")
            raise
        table = _table(search, held_out)
        best = _best(search, table)
        write_json(folder / "tune.json", table)
        write_text(folder / "trials.csv", _csv(table))
        write_text(folder / "best.yaml", _header(table, _verb(best)) + best.yaml())
    show(table)
    print(f"run it:  understudy {_verb(best)} {folder / 'best.yaml'}")
    return Tuned(folder, best, table)


def show(table: dict[str, Any]) -> None:
    """Prints a search's summary."""
    console = RichConsole(highlight=False)
    grid = Table(title=Text(f"held-out {_title(table)}, %"), title_justify="left")
    for head in ("method", "best", "as written", "trials", "stopped early", "diverged"):
        grid.add_column(head, justify="left" if head == "method" else "right")
    for row in table["methods"]:
        scores = ["–" if row[key] is None else f"{row[key]:.2f}" for key in ("best", "as_written")]
        counts = [str(row[key]) for key in ("trials", "stopped", "diverged")]
        grid.add_row(Text(row["name"]), *scores, *counts)
    console.print(grid)
    for line in table["statements"]:
        console.print(line, markup=False, soft_wrap=True)


def _planned(config: Config, auto: bool) -> Config:
    """Returns the config with the race's methods written out."""
    plan = config.tune or TuneConfig()
    if not auto:
        return config.replaced(tune=plan.model_dump(mode="json"))
    race = [entry if isinstance(entry, str) else entry.model_dump(mode="json") for entry in RACE]
    written = plan.model_dump(mode="json")
    if written["methods"] not in (None, race):
        raise ValueError(
            "tune --auto chooses the methods itself, got tune.methods as well. Leave out one of them"
        )
    return config.replaced(tune=written | {"methods": race})


def _check(config: Config, workers: int) -> None:
    if launched() is not None:
        raise ValueError(
            "tune must be started as one process, got several (torchrun or srun). Start it without; --workers runs "
            "several trials at once"
        )
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}. 1 runs one trial after another")
    if config.assistants or config.generations > 1 or config.train.seeds is not None:
        raise ValueError(
            "tune must be of single runs, got assistants, generations or train.seeds. Take them out, and put them "
            "back into best.yaml"
        )
    if odd := set(str(Path(config.output).resolve())) & set("{}?"):  # which name databases otherwise
        raise ValueError(
            f"output must have a path without {min(odd)} for a search, got {config.output}. Choose another"
        )
    several = {config.guide_key(name): guide for name, guide in (config.teachers or {}).items()}
    if random := [key for key, guide in several.items() if untrained(guide)]:
        raise ValueError(
            f"{random[0]} must have weights where there are several teachers, got none. Train it first"
        )
    plan = config.tune or TuneConfig()
    names = [entry if isinstance(entry, str) else entry.name for entry in plan.methods or []]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"tune.methods must have names of their own, got {name!r} twice. Rename one")
    if plan.trials < len(names):
        raise ValueError(
            f"tune.trials must be at least one for each of {len(names)} methods, got {plan.trials}. Raise it"
        )
    if plan.methods is not None and names != [ALONE] and not config.guides:
        raise ValueError("tune must have a teacher to race methods, got none. Add teacher: {model: ...}")


def _base(config: Config) -> Config:
    """Returns the config that all trials share: one order, one set of views and one folder of tables."""
    shared: dict[str, Any] = {
        f"{config.guide_key(name)}.tables": str(tables_folder(guide, Path(config.output)))
        for name, guide in config.guides.items()
    }
    seed = config.seed if config.data.seed is None else config.data.seed
    return config.replaced(
        study=None, tune=None, **shared, **{"data.seed": seed, "data.val": config.data.val or HELD_OUT}
    )


def _contenders(base: Config, plan: TuneConfig, auto: bool, console: Console) -> tuple[list[Contender], int]:
    """Returns who takes part, each built once to see that it fits the pair, and how many images are held out.

    Of ``--auto`` a method that does not fit is left out; of a method that was asked for it is an error.
    """
    entries = plan.methods or [ArmConfig(name="config", losses=base.losses, gradients=base.gradients)]
    alone = ArmConfig(name=ALONE, losses=label_terms(base.losses))
    entries = [alone if auto and entry == RACE[0] else entry for entry in entries]
    all_of_them = [contender(arm_config(entry, base), base, plan) for entry in entries]
    check_space(all_of_them, plan)
    check_tables(base, {one.name: one.config.losses for one in all_of_them})
    found = []
    with process(base) as device:
        data = with_label_noise(read_data(base.data), base)
        assert data.val is not None
        for one in all_of_them:
            try:
                check_begins(one.config)
                build(one.config, device, data).distiller.close()
            except ValueError as error:
                if not auto or one.name == ALONE:
                    raise
                console.say(f"{one.name} is left out: {error}")
            else:
                found.append(one)
    return found, len(data.val)


def _claim(folder: Path, config: Config) -> None:
    """Writes down what is searched; the number of trials may have changed since.

    Raises:
        ValueError: the folder holds another search, or something else.
    """
    file = folder / "config.yaml"
    if file.exists():
        if not (folder / DATABASE).exists():
            raise ValueError(
                f"output must be a new folder or this search's own, got {folder}, which holds a run"
            )
        stored = load_config(file, {"output": config.output})
        dumps = [c.replaced(**{"tune.trials": 1}).model_dump(mode="json") for c in (config, stored)]
        if different := differences(dumps[0], dumps[1]):
            raise ValueError(
                f"output {folder} must hold the same search, got another value for {', '.join(different[:5])}. "
                "Choose another output=, or delete the folder"
            )
    elif any(entry.name not in (".lock", DATABASE) for entry in folder.iterdir()):
        raise ValueError(
            f"output must be a new or empty folder, got {folder}, which holds other things. Choose another"
        )
    (folder / DATABASE).touch()  # before the config: a folder with both is no run's
    write_text(file, config.yaml())


def _teacher(base: Config, folder: Path, console: Console) -> dict[str, Any]:
    """Trains the teacher, on what is not held out, if it has no weights; returns where they are."""
    if base.teacher is None:
        return {}
    if not untrained(base.teacher, read_data(base.data) if base.teacher.pretrained else None):
        return {}
    own = base.replaced(
        output=str(folder / "teacher"),
        student=base.teacher.network().model_dump(),
        teacher=None,
        losses=label_terms(base.losses),
        **{"gradients.align": "none"},
    )
    console.say(f"the teacher has no weights and is trained first ({own.student.model})")
    result = train_unseen("train", own)
    console.say(f"teacher: {score_of(result):.2f}% held out")
    return {
        "teacher.weights": str(folder / "teacher" / "student.safetensors"),
        "teacher.pretrained": False,
    }


def _table(search: Search, held_out: int) -> dict[str, Any]:
    """Returns the content of ``tune.json``."""
    trials = []
    metric = next((name for r in search.results.values() if (name := held_out_score(r["last"]))), "val/acc1")
    for number, result in sorted(search.results.items()):
        one, values = search.values(number)
        trials.append(
            {
                "trial": number + 1,
                "method": one.name,
                "status": result[STATUS],
                "epochs": result["last"]["epoch"],
                metric: score_of(result),
                "seconds": result["seconds"],
                "settings": values,
                "as_written": values == one.written(),
            }
        )
    finished = [trial for trial in trials if trial["status"] == "finished"]
    if not finished:
        stopped = sum(trial["status"] == "stopped" for trial in trials)
        advice = (
            "Raise tune.trials; the same output= goes on"
            if stopped
            else "Lower train.optimizer.lr, or set train.divergence: skip; then choose another output="
        )
        raise ValueError(
            f"a search must have a trial that ends, got {len(trials) - stopped} that diverged and {stopped} that were "
            f"stopped early. {advice}"
        )
    table: dict[str, Any] = {
        "format": 1,
        "metric": metric,
        "held_out_images": held_out,
        "epochs": search.contenders[0].config.train.epochs,
        "methods": [_method_row(one.name, trials, metric) for one in search.contenders],
        "best": max(finished, key=lambda trial: trial[metric]),
        "trials": trials,
        "space": {one.name: [s.describe() for s in one.settings] for one in search.contenders},
        "workers": search.workers,
    }
    table["methods"].sort(key=lambda row: 1 if row["best"] is None else -row["best"])
    return table | {"statements": _statements(table)}


def _method_row(name: str, trials: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    mine = [trial for trial in trials if trial["method"] == name]
    finished = [trial for trial in mine if trial["status"] == "finished"]
    best = max(finished, key=lambda trial: trial[metric], default=None)
    written = next((trial[metric] for trial in finished if trial["as_written"]), None)
    return {
        "name": name,
        "best": best[metric] if best else None,
        "as_written": written,
        "trials": len(mine),
        "stopped": sum(trial["status"] == "stopped" for trial in mine),
        "diverged": sum(trial["status"] == "diverged" for trial in mine),
        "settings": best["settings"] if best else {},
    }


def _statements(table: dict[str, Any]) -> list[str]:
    """Returns what the table means, and what it does not."""
    best, trials, images = table["best"], table["trials"], table["held_out_images"]
    score = best[table["metric"]]
    error = ""
    if table["metric"] == "val/acc1":  # of right and wrong images alone it is known
        error = f" (standard error {100 * math.sqrt(score / 100 * (1 - score / 100) / images):.2f})"
    epochs = sum(trial["epochs"] for trial in trials)
    stopped = sum(trial["status"] == "stopped" for trial in trials)
    diverged = sum(trial["status"] == "diverged" for trial in trials)
    minutes = sum(trial["seconds"] for trial in trials) / 60
    return [
        f"best: trial {best['trial']}, {best['method']}, {score:.2f}% {_title(table)} on {images} held-out "
        f"images{error}; {in_words(best['settings'])}",
        f"searched: {len(trials)} trials, {stopped} stopped early, {diverged} diverged; {epochs} epochs, the work of "
        f"{epochs / table['epochs']:.1f} full trainings, {minutes:.1f} minutes of training",
        f"The score is optimistic: it is the best of {len(trials)} on the very images that chose it, of one seed. Test "
        "images were not looked at; best.yaml measures them once. Methods that start slowly are judged early, like all "
        "others.",
    ]


def _title(table: dict[str, Any]) -> str:
    """Returns what the score of a search is called."""
    return next(
        task.titles[task.primary] for task in TASKS.values() if table["metric"] == f"val/{task.primary}"
    )


def _best(search: Search, table: dict[str, Any]) -> Config:
    """Returns the best trial's config, as a run of its own."""
    config = search.config(table["best"]["trial"] - 1)
    return config.replaced(output=str(search.folder / "best"))


def _verb(best: Config) -> str:
    return "distill" if best.guides else "train"


def _header(table: dict[str, Any], verb: str) -> str:
    lines = [
        f"understudy {verb} best.yaml repeats the best trial and measures the test images, once.",
        *table["statements"],
        "The held-out images stay held out; data.val=0 output=... trains on them, too.",
    ]
    return "".join(f"# {line}\n" for line in lines)


def _csv(table: dict[str, Any]) -> str:
    """Returns a line a trial, unrounded."""
    keys = sorted({key for trial in table["trials"] for key in trial["settings"]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ["trial", "method", "status", "epochs", table["metric"], "seconds"]
    writer.writerow([*fixed, *keys])
    for trial in table["trials"]:
        writer.writerow([*(trial[k] for k in fixed), *(trial["settings"].get(k, "") for k in keys)])
    return text.getvalue()
