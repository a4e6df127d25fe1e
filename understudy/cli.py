"""The command line: one verb, one function. `COMMANDS` is the only list of verbs."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from enum import Enum
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the final table")]


class TableAction(str, Enum):
    """What the verb `table` does."""

    FILL = "fill"
    INFO = "info"
    VERIFY = "verify"
    REMOVE = "remove"


def train(config: ConfigFile, overrides: Overrides = None, quiet: Quiet = False) -> None:
    """Train one model alone, on labels (a teacher, or the student without its teacher)."""
    from understudy import run

    run.train(config, quiet=quiet, **_parsed(overrides, run.train))


def distill(
    config: ConfigFile,
    overrides: Overrides = None,
    quiet: Quiet = False,
    runs: Annotated[int, typer.Option(min=1, hidden=True)] = 1,  # what a study's worker is started with
) -> None:
    """Train a student under a teacher."""
    from understudy import run

    run.distill(config, quiet=quiet, runs=runs, **_parsed(overrides, run.distill))


def resume(
    run_folder: RunFolder,
    previous: Annotated[
        bool, typer.Option("--previous", help="Start from the checkpoint before the last one")
    ] = False,
    changed: Annotated[
        bool,
        typer.Option("--changed", help="Even with other images, teachers or settings than it began with"),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Continue an interrupted run to its end, exactly as if it had never stopped."""
    from understudy import run

    run.resume(run_folder, previous=previous, changed=changed, quiet=quiet)


def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="RUN|CONFIG", help="A run folder, or a config that names student.weights")
    ],
    overrides: Overrides = None,
    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions", help="Also measure under noise, blur, low contrast and JPEG, five levels each"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON")] = False,
) -> None:
    """Measure a run, or weights, on the test images: accuracy, calibration, agreement with the teacher."""
    from understudy import run

    given = _parsed(overrides, run.evaluate)
    result = run.evaluate(source, corruptions=corruptions, quiet=as_json, **given)
    if as_json:
        print(json_line(result))


def analyze(
    folder: Annotated[Path, typer.Argument(metavar="RUN|STUDY", help="A finished run's or study's folder")],
    overrides: Overrides = None,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--only", help="Name of one analysis; may be repeated. Default: all that need no training"
        ),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder to write to. Default: RUN/analysis")] = None,  # noqa: UP045
    quiet: Quiet = False,
) -> None:
    """Run the papers' analyses on a trained pair: numbers, tables, figures and a page (understudy list analyses)."""
    from understudy.analyses.job import analyze as run_analyses

    run_analyses(folder, only or (), out, quiet=quiet, **_parsed(overrides, run_analyses))


def study(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG|recipe:NAME", help="A YAML file, or a table of a paper")
    ],
    overrides: Overrides = None,
    workers: Annotated[
        int, typer.Option(min=1, help="How many runs to train at once, each in its own process")
    ] = 1,
    scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="For a recipe: the share of its epochs and training images to keep"),
    ] = None,
    all_images: Annotated[
        bool, typer.Option("--all-images", help="With --scale: shrink the epochs only")
    ] = False,
    teachers: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="DIR", help="For a recipe: folder with its teachers' weights, one MODEL.safetensors each"
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Did it help? Train teacher, student alone and methods over several seeds; or re-run a table of a paper."""
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
            **_parsed(overrides, reproduce),
        )
    elif scale is not None or all_images or teachers is not None:
        raise ValueError(
            f"--scale, --all-images and --teachers must be of a recipe, got {config}. Write recipe:NAME "
            "(understudy list recipes), or change the config: train.epochs=12 data.limit=2500"
        )
    else:
        run_study(config, workers=workers, quiet=quiet, **_parsed(overrides, run_study))


def tune(
    config: ConfigFile,
    overrides: Overrides = None,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto", help="Choose the method too: race the student alone, kd, dkd, dhkd, kd++ and reviewkd"
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="How many trials to run at once, each in its own process")
    ] = 1,
    quiet: Quiet = False,
    trial: Annotated[Optional[int], typer.Option(hidden=True)] = None,  # noqa: UP045 (what a worker is started with)
) -> None:
    """Search for the best settings, or the method, on held-out training images; writes best.yaml."""
    if trial is not None:
        from understudy.config import load_config
        from understudy.trial import run_trial

        run_trial(load_config(config), trial)
        return
    from understudy.tune import tune as run_tune

    run_tune(config, auto=auto, workers=workers, quiet=quiet, **_parsed(overrides, run_tune))


def demo(
    output: Annotated[str, typer.Option(help="Folder for all runs and the report")] = "runs/demo",
    quiet: Quiet = False,
) -> None:
    """See it work: a teacher, a student alone, KD and DHKD on scikit-learn's digits, in half a minute."""
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image")] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder for pictures of the masks (segmentation) or boxes (detection), NAME.png each"
        ),
    ] = None,
) -> None:
    """Say what is in images: classes, masks or boxes."""
    from understudy.predict import image_files, load_predictor, write_masks

    predictor, files = load_predictor(source), image_files(images)
    if out is not None:
        write_masks(predictor, files, out)
    for image in files:
        answer = predictor(image, top)
        if as_json:
            print(json_line(answer.as_dict()))
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
    out: Annotated[Optional[Path], typer.Option(help="Folder to write to. Default: RUN/export")] = None,  # noqa: UP045
    quiet: Quiet = False,
) -> None:
    """Write a run's model as safetensors, torch.export, ONNX or int8, checked against the trained one."""
    from understudy.exports import export as run_export

    run_export(run_folder, tuple(to or ["all"]), out, quiet=quiet)


def bench(
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON")] = False,
) -> None:
    """Show where a step's time goes: data, teacher, student, losses, backward, optimiser."""
    from understudy.bench import bench as run_bench

    result = run_bench(config, quiet=as_json, **_parsed(overrides, run_bench))
    if as_json:
        print(json_line(result))


def table(
    action: Annotated[TableAction, typer.Argument(metavar="fill|info|verify|remove", show_default=False)],
    config: ConfigFile,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Manage the teacher's stored answers: compute them ahead of training, inspect, check or remove them."""
    from understudy import tables

    actions = {"fill": tables.fill, "info": tables.info, "verify": tables.verify, "remove": tables.remove}
    act = actions[action.value]
    act(config, quiet=quiet, **_parsed(overrides, act))


def doctor(
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all findings as JSON")] = False,
) -> None:
    """Check a config on one batch before training: taps, teacher, classes, memory, speed."""
    from understudy.doctor import doctor as run_doctor

    result = run_doctor(config, quiet=as_json, **_parsed(overrides, run_doctor))
    if as_json:
        print(json_line(result))
    if result["status"] == "error":
        raise typer.Exit(2)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs")],
    out: Annotated[Optional[Path], typer.Option(help="Folder for the tables and a report")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON")] = False,
) -> None:
    """Compare finished runs in one table, paired by seed."""
    from understudy.compare import compare as compare_runs

    table = compare_runs(runs, output=out, quiet=as_json)
    if as_json:
        print(json_line(table))


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run or study folder")],
    alone: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The run of the student trained alone, to compare with"),
    ] = None,
) -> None:
    """Write the HTML report of a run or study again."""
    from understudy.report import write_run_report, write_study_report

    if (folder / "study.json").exists():
        if alone is not None:
            raise ValueError(
                f"--alone must be of one run, got the study {folder}. Leave it out, or name a run"
            )
        print(write_study_report(folder, figures=True))
    elif (folder / "result.json").exists() or (folder / "metrics.jsonl").exists():
        print(write_run_report(folder, alone, figures=True))
    else:
        raise ValueError(f"report must be given a run or a study, got {folder}. Check the path")


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
    try:
        write_config(path, {k: v for k, v in flags.items() if v is not None}, ask=sys.stdin.isatty())
    except typer.Abort:  # Ctrl-C at a question
        raise KeyboardInterrupt from None
    print(f"wrote {path}; its first lines are the commands to run next")


def list_(
    what: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="methods, presets, models, data, analyses or recipes; all of them if left out"),
    ] = None,
    name: Annotated[Optional[str], typer.Argument(help="With recipes: show one of them, row by row")] = None,  # noqa: UP045
    student: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With --teacher: measure what each method costs for this pair"),
    ] = None,
    teacher: Annotated[Optional[str], typer.Option(help="The teacher of that pair")] = None,  # noqa: UP045
    classes: Annotated[int, typer.Option(min=2, help="How many classes that pair has")] = 100,
    size: Annotated[int, typer.Option(min=1, help="Side of that pair's images, in pixels")] = 32,
) -> None:
    """List methods, presets, models, data sets, analyses and recipes; for a pair of models, what each method costs."""
    from understudy.listing import show

    show(what, name=name, student=student, teacher=teacher, num_classes=classes, size=size)


PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Get started": {"init": init, "doctor": doctor, "demo": demo, "list": list_},
    "Train": {"train": train, "distill": distill, "resume": resume, "tune": tune},
    "Evaluate": {
        "evaluate": evaluate,
        "study": study,
        "compare": compare,
        "analyze": analyze,
        "report": report,
    },
    "Deploy": {"predict": predict, "export": export},
    "Speed": {"table": table, "bench": bench},
}
"""The verbs as ``--help`` groups them."""

COMMANDS: dict[str, Callable[..., None]] = {
    name: command for verbs in PANELS.values() for name, command in verbs.items()
}


def _version(asked: bool) -> None:
    if asked:
        import understudy

        print(f"understudy {understudy.__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Make a small vision model better by training it under a large one."""


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.callback()(_main)
for _panel, _verbs in PANELS.items():
    for _name, _command in _verbs.items():
        app.command(_name, rich_help_panel=_panel)(_command)


def main() -> None:
    """Runs a verb and turns what it raises into an exit status.

    0 done; 2 the user's input is wrong or the training diverged (one line, no traceback); 130 interrupted, resumable;
    1, with a traceback, our fault. With ``UNDERSTUDY_TRACEBACK=1`` in the environment a 2 has its traceback, too.
    """
    if os.getcwd() not in sys.path:  # package.module:factory may lie here, as `python -m` finds it
        sys.path.append(os.getcwd())
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        status, line = _ended(error)
        if status == 1:
            raise
        if status == 2 and os.environ.get("UNDERSTUDY_TRACEBACK", "0") != "0":
            traceback.print_exc()
        elif line is not None:
            print(f"understudy: {line}", file=sys.stderr)
        sys.exit(status)


def _ended(error: Exception) -> tuple[int, str | None]:
    """Returns the exit status for an error, and what is to be said of it."""
    from understudy.engine.distributed import OtherProcessError
    from understudy.engine.launch import lost
    from understudy.engine.loop import InterruptedRunError

    if isinstance(error, InterruptedRunError):
        return 130, None
    if isinstance(error, OtherProcessError):
        return 2, None  # the process that failed says why
    if isinstance(error, (ValueError, OSError)):
        return 2, _one_line(error)
    line = lost(error)
    return (1, None) if line is None else (2, line)


def _one_line(error: ValueError | OSError) -> str:
    """Returns what is said of an error; the system's own do not say what to do."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        reason = f"{os.strerror(error.errno)}: {error.filename}"
        return f"{' '.join(reason.split())}. Check the path, who may write there, and the space on the disk"
    return " ".join(str(error).split())


def _parsed(overrides: list[str] | None, verb: Callable[..., Any]) -> dict[str, Any]:
    """Returns the changes to a verb's config; what is an argument of the verb itself is none of them."""
    from understudy.config import parse_overrides

    given = parse_overrides(overrides or [])
    for name in given:
        if name in inspect.signature(verb).parameters:
            raise ValueError(
                f"{name}= must be a key of the config, got an option of the command. Write it with dashes "
                "(understudy --help), or change a key"
            )
    return given
