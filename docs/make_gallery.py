"""Draws the figures of docs/gallery.md from real runs on digits, and writes the page.

    python docs/make_gallery.py            # trains, analyses, draws, writes: a few minutes on two cores
    python docs/make_gallery.py --page     # writes the page alone

The runs stand in runs/ below the present folder, as the commands on the page say; finished ones are used again.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

import understudy as us
from understudy.files import read_json_lines
from understudy.report.plots import Bars, Curve, Curves, Plot, files

DOCS = Path(__file__).parent
FOLDER = DOCS / "gallery"
CONFIG = FOLDER / "digits.yaml"
RUNS = Path("runs")
COMMAND = "understudy distill docs/gallery/digits.yaml"
COLOURS = 128
"""Of the PNG files: charts need no more, and are a third as large."""

METHODS = {"kd": "kd", "dkd": "dkd", "kdpp": "kd++", "dhkd": "dhkd", "srrl": "srrl", "ijckd": "ijckd"}
"""Run folder -> preset."""
TEACHERS = {
    "cnn_tiny": "runs/teacher-cnn_tiny",
    "cnn_small": "runs/teacher",
    "resnet8": "runs/teacher-resnet8",
}
"""Model -> its run, from the smallest to the largest."""
EARLY: dict[str, list[dict[str, Any]]] = {
    "CE alone": [{"name": "ce"}],
    "BinaryKL-Norm alone": [{"name": "binary_kl_norm"}],
    "both on one head": [{"name": "ce"}, {"name": "binary_kl_norm"}],
    "both, a head each": [{"name": "ce"}, {"name": "dhkd"}],
}
"""DHKD's four settings."""


INTRODUCTION = """
# Gallery

<!-- blocks not run: an hour of training; tests/test_gallery.py reads each of the commands -->

Every figure of the papers that can be drawn, with the command that draws it; for a pair of your own, give its run
folder. The pictures are made by `python docs/make_gallery.py` from real runs on digits (8×8 pixels, 300 training
images, one seed unless said otherwise). They show what a figure looks like and that its command runs, not which
method is better: for that run a study on your own data.

The runs they need, from the root of the checkout ([the config](gallery/digits.yaml)):

```console
understudy train docs/gallery/digits.yaml student.model=cnn_small data.limit=null train.epochs=15 output=runs/teacher
{distil}
```

Each `analyze` writes numbers (JSON), tables (CSV), figures (SVG and PNG) and one page into `RUN/analysis`; without
`--only` it makes all that need no training. `understudy list analyses` says what each tells, costs and needs. Over
training, it looks at the checkpoints that `train.keep_checkpoints` keeps.
"""
TEXTS: dict[str, Any] = yaml.safe_load((FOLDER / "figures.yaml").read_text(encoding="utf-8"))
FIGURES: list[dict[str, Any]] = [figure for figures in TEXTS["figures"].values() for figure in figures]


def main(arguments: list[str]) -> None:
    """Draws everything, or writes the page alone."""
    if arguments != ["--page"]:
        train()
        draw()
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


def train() -> None:
    """Makes the runs that are not there yet."""
    for model, folder in TEACHERS.items():
        _run(us.train, Path(folder), **{"student.model": model, "data.limit": None, "train.epochs": 15})
    for name, preset in METHODS.items():
        _run(us.distill, RUNS / name, method=preset)
    for name, losses in EARLY.items():
        verb = us.train if len(losses) == 1 and losses[0]["name"] == "ce" else us.distill
        _run(verb, RUNS / name.replace(" ", "-").replace(",", ""), losses=losses, **{"data.val": 0.2})
    for model, folder in TEACHERS.items():
        for preset in ("kd", "kd++"):
            teacher = {"teacher.model": model, "teacher.weights": f"{folder}/student.safetensors"}
            _run(us.distill, RUNS / f"{preset.replace('+', 'p')}-{model}", method=preset, **teacher)
    us.study(
        str(CONFIG),
        quiet=True,
        **{
            "study.methods": ["kd", "dkd", "kd++", "dhkd"],
            "study.seeds": [0, 1],
            "output": str(RUNS / "study"),
            "train.keep_checkpoints": None,
        },
    )


def draw() -> None:
    """Analyses the runs and puts the figures of the page into docs/gallery."""
    asked: dict[str, dict[str, Any]] = {
        "dhkd": _sweep("losses.1.temperature", [1, 2, 4, 8]),
        "kdpp": _sweep("losses.2.weight", [0.5, 1, 2, 4]),
        "ijckd": _sweep("losses.0.weight", [0.01, 0.1, 1, 4]),
        "dkd": {"transfer.name": "digits", "epochs": 10},
    }
    more = {"dkd": ("transfer", "difficulty_training")}
    for name in (*METHODS, "study"):
        wanted = [image for figure in FIGURES for image in figure["images"] if image.startswith(f"{name}-")]
        own = [a for a in us.ANALYSES if any(image.startswith(f"{name}-{a}-") for image in wanted)]
        found = us.analyze(RUNS / name, own, quiet=True, **asked.get(name, {})) if own else None
        assert found is None or set(more.get(name, ())) <= set(found.findings)
        for image in wanted:
            source = RUNS / name / "analysis" / f"{image.removeprefix(name + '-')}.png"
            _save(source.read_bytes(), image)
    for name, plot in OWN.items():
        _save(files(plot(), dpi=110)[1], name)


def page() -> str:
    """Returns docs/gallery.md."""
    distil = [f"{COMMAND} method={preset} output=runs/{name}" for name, preset in METHODS.items()]
    lines = [INTRODUCTION.format(distil="\n".join(distil)).strip()]
    for paper, figures in TEXTS["figures"].items():
        lines += ["", f"## {paper}"]
        for figure in figures:
            lines += _entry(figure)
    lines += ["", "## Left out", ""]
    lines += [f"- {what}: {why}." for what, why in TEXTS["left_out"].items()]
    return "\n".join(lines) + "\n"


def _entry(figure: dict[str, Any]) -> list[str]:
    alt = figure["shows"].rstrip(".")
    images = [f'<img src="gallery/{image}.png" alt="{alt}" width="380">' for image in figure["images"]]
    commands = ["```console", *figure["command"], "```"]
    return ["", f"### {figure['where']}", "", figure["shows"], "", *commands, "", " ".join(images)]


def _run(verb: Callable[..., us.Run], folder: Path, **changes: Any) -> None:
    if not (folder / "result.json").exists():
        verb(str(CONFIG), quiet=True, output=str(folder), **changes)


def _sweep(setting: str, values: list[float]) -> dict[str, Any]:
    return {"sweep.setting": setting, "sweep.values": values}


def _save(png: bytes, name: str) -> None:
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(COLOURS).save(FOLDER / f"{name}.png", optimize=True)


def _softmax() -> Plot:
    first, second = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([-2.0, -1.0, 0.0])
    values = {
        f"softmax of {_vector(first)}": first.softmax(0),
        f"softmax of {_vector(second)}": second.softmax(0),
        f"sigmoid of {_vector(first)}": first.sigmoid(),
        f"sigmoid of {_vector(second)}": second.sigmoid(),
    }
    return Bars(
        "softmax",
        "What softmax forgets and the sigmoid keeps",
        "probability",
        ("class 0", "class 1", "class 2"),
        tuple((name, v.tolist()) for name, v in values.items()),
    )


def _vector(values: torch.Tensor) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values.tolist()) + ")"


def _four_settings() -> Plot:
    curves = []
    for name in EARLY:
        lines = read_json_lines(RUNS / name.replace(" ", "-").replace(",", "") / "metrics.jsonl")
        curves.append(Curve(name, [line["epoch"] for line in lines], [line["val/acc1"] for line in lines]))
    return Curves("four", "Held-out top-1 accuracy, %", "epoch", "%", tuple(curves))


def _larger_teachers() -> Plot:
    sizes, curves = [], []
    for folder in TEACHERS.values():
        sizes.append(_result(Path(folder))["last"]["test/acc1"])
    for preset in ("kd", "kd++"):
        scores = [
            _result(RUNS / f"{preset.replace('+', 'p')}-{model}")["last"]["test/acc1"] for model in TEACHERS
        ]
        order = sorted(range(len(sizes)), key=sizes.__getitem__)
        curves.append(Curve(preset, [sizes[i] for i in order], [scores[i] for i in order]))
    return Curves(
        "larger", "Student under better teachers (one seed)", "teacher's test top-1, %", "%", tuple(curves)
    )


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


OWN: dict[str, Callable[[], Plot]] = {
    "softmax": _softmax,
    "four-settings": _four_settings,
    "larger-teachers": _larger_teachers,
}
"""Figures that no single run holds."""

if __name__ == "__main__":
    main(sys.argv[1:])
