"""The command line: one verb, one function. `COMMANDS` is the only list of verbs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from understudy.files import json_line

Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 (typer reads the annotation at run time on Python 3.10)
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Changes to the config, e.g. train.epochs=5", show_default=False
    ),
]
ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors")]


class TableAction(str, Enum):
    """What the verb `table` does."""

    FILL = "fill"
    INFO = "info"
    VERIFY = "verify"
    REMOVE = "remove"


def train(config: ConfigFile, overrides: Overrides = None, quiet: Quiet = False) -> None:
    """Train one model alone, on labels (a teacher, or the student without its teacher)."""
    from understudy import run

    run.train(config, quiet=quiet, **_parsed(overrides))


def distill(
    config: ConfigFile,
    overrides: Overrides = None,
    quiet: Quiet = False,
    runs: Annotated[int, typer.Option(min=1, hidden=True)] = 1,  # what a study's worker is started with
) -> None:
    """Train a student under a teacher."""
    from understudy import run

    run.distill(config, quiet=quiet, runs=runs, **_parsed(overrides))


def resume(
    run_folder: RunFolder,
    previous: Annotated[bool, typer.Option("--previous", help="From the checkpoint before the last")] = False,
    quiet: Quiet = False,
) -> None:
    """Take an interrupted run to its end, exactly."""
    from understudy import run

    run.resume(run_folder, previous=previous, quiet=quiet)


def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="RUN|CONFIG", help="A run folder, or a config with student.weights")
    ],
    overrides: Overrides = None,
    corruptions: Annotated[
        bool,
        typer.Option("--corruptions", help="Also on noise, blur, low contrast and JPEG, five levels each"),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All numbers as JSON")] = False,
) -> None:
    """Measure a run, or weights, on the test images: accuracy, calibration, likeness to the teacher."""
    from understudy import run

    result = run.evaluate(source, corruptions=corruptions, quiet=as_json, **_parsed(overrides))
    if as_json:
        print(json_line(result))


def analyze(
    folder: Annotated[Path, typer.Argument(metavar="RUN|STUDY", help="A finished run's or study's folder")],
    overrides: Overrides = None,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--only", help="An analysis by name; may be repeated. By default all that train nothing"
        ),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder to write to; by default RUN/analysis")] = None,  # noqa: UP045
    quiet: Quiet = False,
) -> None:
    """The papers' analyses of a trained pair: numbers, tables, figures and a page (understudy list analyses)."""
    from understudy.analyses.job import analyze as run_analyses

    run_analyses(folder, only or (), out, quiet=quiet, **_parsed(overrides))


def study(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG|recipe:NAME", help="A YAML file, or a paper's table")
    ],
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs at once, each in a process of its own")] = 1,
    scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Of a recipe: the share of its epochs and training images that is kept"),
    ] = None,
    all_images: Annotated[
        bool, typer.Option("--all-images", help="With --scale: shrink epochs only")
    ] = False,
    teachers: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="DIR", help="Of a recipe: weights of its teachers, a file MODEL.safetensors each"
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Did it help? Teacher, student alone and methods over seeds, with a plain verdict; or a table of a paper."""
    from understudy.reproduce import PREFIX, reproduce
    from understudy.study import study as run_study

    if config.startswith(PREFIX):
        share = 1.0 if scale is None else scale
        reproduce(
            config,
            scale=share,
            all_images=all_images,
            teachers=teachers,
            workers=workers,
            quiet=quiet,
            **_parsed(overrides),
        )
    elif scale is not None or all_images or teachers is not None:
        raise ValueError(
            f"--scale, --all-images and --teachers must be of a recipe, got {config}. Write recipe:NAME "
            "(understudy list recipes), or change the config: train.epochs=12 data.limit=2500"
        )
    else:
        run_study(config, workers=workers, quiet=quiet, **_parsed(overrides))


def tune(
    config: ConfigFile,
    overrides: Overrides = None,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="Race the student alone, kd, dkd, dhkd, kd++ and reviewkd"),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Trials at once, each in a process of its own")] = 1,
    quiet: Quiet = False,
    trial: Annotated[Optional[int], typer.Option(hidden=True)] = None,  # noqa: UP045 (what a worker is started with)
) -> None:
    """Search settings, or the method, on images held out of train; goes on where it was stopped; writes best.yaml."""
    if trial is not None:
        from understudy.config import load_config
        from understudy.trial import run_trial

        run_trial(load_config(config), trial)
        return
    from understudy.tune import tune as run_tune

    run_tune(config, auto=auto, workers=workers, quiet=quiet, **_parsed(overrides))


def demo(
    output: Annotated[str, typer.Option(help="Folder of all runs and of the report")] = "runs/demo",
    quiet: Quiet = False,
) -> None:
    """Run the main job on scikit-learn's digits, on the CPU, in about two minutes."""
    from understudy.demo import demo as run_demo

    run_demo(output, quiet=quiet)


def predict(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|WEIGHTS", help="A run folder or its student.safetensors")
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Image files, or folders of them")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes (or objects) to name")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line")] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder for NAME.png: masks of a network that classifies pixels, boxes of one that finds objects"
        ),
    ] = None,
) -> None:
    """Say what is on images, or where."""
    from understudy.predict import image_files, load_predictor, write_masks

    predictor, files = load_predictor(source), image_files(images)
    if out is not None:
        write_masks(predictor, files, out)
    for image in files:
        answer = predictor(image, top)
        if as_json:
            print(json.dumps(answer.as_dict()))
        else:
            named = zip(answer.classes, answer.probabilities, strict=True)
            places = [f" at {', '.join(f'{side:.0f}' for side in box)}" for box in answer.boxes or ()] or [
                ""
            ] * len(answer.classes)
            said = [f"{name} {100 * p:.1f}%{at}" for (name, p), at in zip(named, places, strict=True)]
            print(f"{answer.path}: " + (", ".join(said) or "nothing found"))


def export(
    run_folder: RunFolder,
    to: Annotated[list[str] | None, typer.Option("--to", help="safetensors, pt2, onnx, int8 or all")] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder to write to; by default RUN/export")] = None,  # noqa: UP045
    quiet: Quiet = False,
) -> None:
    """Write a run's model for deployment, checked against the trained one."""
    from understudy.exports import export as run_export

    run_export(run_folder, tuple(to or ["all"]), out, quiet=quiet)


def bench(
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON")] = False,
) -> None:
    """Where a step's time goes: data, teacher, student, losses, alignment, optimiser."""
    from understudy.bench import bench as run_bench

    result = run_bench(config, quiet=as_json, **_parsed(overrides))
    if as_json:
        print(json.dumps(result))


def table(
    action: Annotated[TableAction, typer.Argument(metavar="fill|info|verify|remove", show_default=False)],
    config: ConfigFile,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """The teacher's remembered answers: fill them ahead of training, look at them, check or remove them."""
    from understudy import tables

    actions = {"fill": tables.fill, "info": tables.info, "verify": tables.verify, "remove": tables.remove}
    actions[action.value](config, quiet=quiet, **_parsed(overrides))


def doctor(
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="All findings as JSON")] = False,
) -> None:
    """One batch through everything before the first epoch: taps, teacher, classes, memory, speed."""
    from understudy.doctor import doctor as run_doctor

    result = run_doctor(config, quiet=as_json, **_parsed(overrides))
    if as_json:
        print(json.dumps(result))
    if result["status"] == "error":
        raise typer.Exit(2)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs")],
    out: Annotated[Optional[Path], typer.Option(help="Folder for tables and report")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON")] = False,
) -> None:
    """Compare finished runs, paired by seed."""
    from understudy.compare import compare as compare_runs

    table = compare_runs(runs, output=out, quiet=as_json)
    if as_json:
        print(json.dumps(table))


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run or study folder")],
    alone: Annotated[Optional[Path], typer.Option(help="The run of the student alone, for the table")] = None,  # noqa: UP045
) -> None:
    """Write the HTML page of a run or study anew."""
    from understudy.report import write_run_report, write_study_report

    if (folder / "study.json").exists():
        print(write_study_report(folder, figures=True))
    elif (folder / "result.json").exists():
        print(write_run_report(folder, alone, figures=True))
    else:
        raise ValueError(f"report must be given a finished run or study, got {folder}. Check the path")


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The config to write")] = Path("distill.yaml"),
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="imagefolder, parquet, manifest, cifar10 ... (understudy list data)"),
    ] = None,
    root: Annotated[Optional[str], typer.Option(help="Folder of a data set that has one")] = None,  # noqa: UP045
    train: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Training images: a folder with one folder per class, a parquet file, or a table"),
    ] = None,
    test: Annotated[Optional[str], typer.Option(help="Test images, likewise")] = None,  # noqa: UP045
    image_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=8, help="Scale all images to this many pixels a side; by default a look at them decides"
        ),
    ] = None,
    teacher: Annotated[Optional[str], typer.Option(help="Name of the teacher's model")] = None,  # noqa: UP045
    weights: Annotated[Optional[str], typer.Option(help="File with the teacher's weights")] = None,  # noqa: UP045
    student: Annotated[Optional[str], typer.Option(help="Name of the student's model")] = None,  # noqa: UP045
    method: Annotated[Optional[str], typer.Option(help="A preset: dhkd, kd, dkd, kd++ ...")] = None,  # noqa: UP045
    epochs: Annotated[Optional[int], typer.Option(min=1, help="Passes over the training images")] = None,  # noqa: UP045
) -> None:
    """Write a commented config from a few questions or flags."""
    from understudy.init import write_config

    flags = {
        "data": data,
        "root": root,
        "train": train,
        "test": test,
        "image_size": image_size,
        "teacher": teacher,
        "weights": weights,
        "student": student,
        "method": method,
        "epochs": epochs,
    }
    write_config(path, {k: v for k, v in flags.items() if v is not None}, ask=sys.stdin.isatty())
    print(f"wrote {path}; its first lines are the commands to run next")


def list_(
    what: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="methods, presets, models, data, analyses or recipes"),
    ] = None,
    name: Annotated[Optional[str], typer.Argument(help="With recipes: one of them, row by row")] = None,  # noqa: UP045
    student: Annotated[Optional[str], typer.Option(help="With --teacher: measure what methods cost")] = None,  # noqa: UP045
    teacher: Annotated[Optional[str], typer.Option(help="Model of the pair's teacher")] = None,  # noqa: UP045
    classes: Annotated[int, typer.Option(min=2, help="Classes of the pair")] = 100,
    size: Annotated[int, typer.Option(min=1, help="Pixels of the pair's images, a side")] = 32,
) -> None:
    """List methods, presets, models, data sets, analyses and recipes; for a pair of models, what every method costs."""
    from understudy.listing import show

    show(what, name=name, student=student, teacher=teacher, num_classes=classes, size=size)


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "distill": distill,
    "resume": resume,
    "evaluate": evaluate,
    "analyze": analyze,
    "predict": predict,
    "table": table,
    "doctor": doctor,
    "bench": bench,
    "export": export,
    "study": study,
    "tune": tune,
    "compare": compare,
    "report": report,
    "init": init,
    "list": list_,
}


def _version(asked: bool) -> None:
    if asked:
        print(f"understudy {metadata.version('understudy-distill')}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Make a small vision model better by training it under a large one."""


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.callback()(_main)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Runs a verb and turns what it raises into an exit status.

    0 done; 2 the user's input is wrong or the training diverged (one line, no traceback); 130 interrupted, resumable;
    1, with a traceback, our fault.
    """
    from understudy.engine.distributed import OtherProcessError
    from understudy.engine.launch import lost
    from understudy.engine.loop import InterruptedRunError

    if os.getcwd() not in sys.path:  # package.module:factory may lie here, as `python -m` finds it
        sys.path.append(os.getcwd())
    try:
        app()
    except OtherProcessError:
        sys.exit(2)  # the process that failed says why
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"understudy: {message}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if (line := lost(error)) is None:
            raise
        print(f"understudy: {line}", file=sys.stderr)
        sys.exit(2)
    except (InterruptedRunError, KeyboardInterrupt):
        sys.exit(130)


def _parsed(overrides: list[str] | None) -> dict[str, Any]:
    from understudy.config import parse_overrides

    return parse_overrides(overrides or [])
