"""The model card: what the files in an export folder are, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from understudy.exports.finished import FinishedRun
from understudy.exports.table import Row, cells
from understudy.models import Translated
from understudy.result import headline

_LOADING = {
    "safetensors": """\
### {file}: weights (PyTorch)

Named tensors and, in the metadata, the name of the network, its classes and the normalisation. Reading the file runs
no code.

```python
import understudy as us

for answer in us.predict("{file}", ["image.png"]):
    print(answer.classes[0], answer.probabilities[0])
```""",
    "pt2": """\
### {file}: program (`torch.export`)

Needs PyTorch only. `torch.export.load` may run code that is in a file: load it only if you trust where it is from.

```python
import torch

network = torch.export.load("{file}").module()
logits = network(images)  # (N, {channels}, {height}, {width}) float32, normalised as above
```""",
    "onnx": """\
### {file}: ONNX (opset {opset})

```python
import json
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map  # classes, mean, std, image_size, channels (resize): all JSON
(logits,) = session.run(["logits"], {{"images": images}})  # (N, {channels}, {height}, {width}) float32, normalised
classes = json.loads(about["classes"])
{use}
```""",
    "int8": """\
### {file}: ONNX, 8 bits

Loaded and fed like any ONNX file; quantisation happens inside.""",
}

_TRANSPLANTED = """\
### {file}: weights

Named tensors of the student's backbone, the connector and the teacher's classifier, which the training put together.
To run it without this library, take the program or the ONNX file; with it: `understudy predict {file} IMAGE`."""


_KINDS = {
    "classification": "An image classifier",
    "multilabel": "An image classifier that finds any number of classes",
    "detection": "A detector of objects",
    "segmentation": "A classifier of pixels",
}


def model_card(run: FinishedRun, files: Mapping[str, str], report: Mapping[str, Any], rows: list[Row]) -> str:
    """Returns the Markdown text.

    Nothing that comes from the data or the config can break out of its place: names stand in code spans, classes in a
    block of JSON.

    Args:
        run: what was exported.
        files: format -> name of its file.
        report: the content of ``export.json``.
        rows: the table, if it was made.
    """
    predictor, config = run.predictor, run.config
    height, width = predictor.image_size
    pixels = run.task.name == "segmentation"
    kinds = {"segmentation": "image-segmentation", "detection": "object-detection"}
    kind = kinds.get(run.task.name, "image-classification")
    scaled_to = "the network's" if predictor.resize is None else f"{predictor.resize} pixels"
    parts = [
        f"---\nlibrary_name: understudy\npipeline_tag: {kind}\nlicense: other\n---",
        f"# {_code(run.result['name'])}",
        f"{_KINDS[run.task.name]}: {_code(config.student.model)}"
        f"{' with the classifier of its teacher' * run.transplanted}, {run.parameters:,} parameters, "
        f"{len(predictor.classes)} classes, for {'grey' if predictor.channels == 1 else 'colour'} images of "
        f"{height} × {width} pixels. {_teacher(run)}",
        f"## Accuracy\n\n{_accuracy(run)}",
        *_comparison(run, report, rows),
        f"## Images\n\nPixels are scaled to 0 to 1, then normalised, per channel: subtract {_numbers(predictor.mean)}, "
        f"divide by {_numbers(predictor.std)}. "
        + (
            "Images of another size are scaled to fit, and the rest is black."
            if run.task.name in kinds
            else "Images of another size: the shorter side is scaled to "
            f"{scaled_to}, then the centre is cut out."
        ),
        *_preparation(predictor.module),
        f"## Classes\n\n```json\n{json.dumps(predictor.classes, indent=1)}\n```",
        f"## Training data\n\nData set {_code(config.data.name)}{_share(run)}, {config.train.epochs} epochs, "
        f"losses {', '.join(_code(str(term['name'])) for term in config.losses)}.",
        "## Licence\n\nNot chosen yet: that is up to whoever publishes these files. The terms of the training data"
        f"{' and of the teacher' if config.guides else ''} apply to them; understudy's licence covers its code only.",
        "## How to load\n\nFor use on another machine only the file itself is needed.",
    ]
    about: dict[str, Any] = {"channels": predictor.channels, "height": height, "width": width}
    opset = report.get("onnx", {}).get("opset")
    about["use"] = (
        "mask = logits[0].argmax(axis=0)  # class numbers (H, W)"
        if pixels
        else "print([name for name, logit in zip(classes, logits[0]) if logit > 0])"
        if run.task.name == "multilabel"
        else "print(classes[logits[0].argmax()])"  # a detector has no format that is loaded so
    )
    loading = _LOADING | ({"safetensors": _TRANSPLANTED} if run.transplanted else {})
    parts += [loading[kind].format(file=name, opset=opset, **about) for kind, name in files.items()]
    return "\n\n".join(parts) + "\n"


def _teacher(run: FinishedRun) -> str:
    teacher = run.result["teacher"]
    if teacher is None:
        return "Trained on labels, without a teacher."
    return f"Distilled from {_code(teacher['model'])} ({teacher['parameters']:,} parameters)."


def _accuracy(run: FinishedRun) -> str:
    last, task = run.result["last"], run.task
    text = headline(run.result) + "."
    if f"test/{task.primary}" in last:
        samples = run.result.get("measured") or sum(map(sum, run.result["confusion"]))  # older runs
        others = {score: title for score, title in task.titles.items() if score != task.primary}
        for score, title in others.items():
            if f"test/{score}" in last:
                text += f" {title[0].upper()}{title[1:]} {last[f'test/{score}']:.2f}%."
        text += f" Measured once, in PyTorch, on {samples:,} {task.samples} that were not used to train or to choose"
        text += " anything."
    return text[0].upper() + text[1:]


def _preparation(module: nn.Module) -> list[str]:
    """Returns what a network with images of its own does first."""
    if not isinstance(module, Translated):
        return []
    size = (
        ""
        if module.image_size is None
        else f", scaled to {module.image_size[0]} × {module.image_size[1]} pixels"
    )
    mean, std = (tuple(values) for values in (module.preprocess["mean"], module.preprocess["std"]))
    return [
        f"The programs themselves then take them back to 0 to 1, as {module.channels}{size}, and normalise them anew: "
        f"subtract {_numbers(mean)}, divide by {_numbers(std)}. The weights are of what comes after; `us.predict` and "
        "`understudy predict` do all of it."
    ]


def _comparison(run: FinishedRun, report: Mapping[str, Any], rows: list[Row]) -> list[str]:
    """Returns what the ONNX files were found to do, if there are any."""
    parts = []
    if "onnx" in report:
        figures = report["onnx"]
        parts.append(
            f"The ONNX file was compared with PyTorch on {figures['images']:,} {figures['split']} images: the largest "
            f"difference of two logits is {figures['max_difference']:.2g}, the class is the same for "
            f"{figures['agreement']:.2f}%."
        )
    if "int8" in report:
        figures, score = report["int8"], run.task.primary
        parts.append(
            f"Quantised with {figures['calibration']['images']:,} training images; on the {figures['split']} images "
            f"{run.task.titles[score]} goes from {figures[f'{score}_before']:.2f}% to {figures[f'{score}_after']:.2f}%."
        )
    if rows:
        header, *body = cells(rows, run.task.titles[run.task.primary])
        table = [header, ("---", *["---:"] * (len(header) - 1)), *body]
        parts.append(
            "Median time of a batch in onnxruntime on one CPU thread of the machine that exported:\n\n"
            + "\n".join(f"| {' | '.join(row)} |" for row in table)
        )
    return parts


def _share(run: FinishedRun) -> str:
    data = run.config.data
    limit = f", {data.limit:,} images of it" if data.limit else ""
    return limit + (f", {100 * data.val:g}% held out" if data.val else "")


def _code(text: str) -> str:
    """Returns a name as a code span on one line, whatever is in it."""
    printable = text.encode(errors="replace").decode()  # a path may hold bytes that are no UTF-8
    return "`" + " ".join(printable.split()).replace("`", "'") + "`"


def _numbers(values: tuple[float, ...]) -> str:
    return " / ".join(f"{value:.6g}" for value in values)
