"""A finished run -> files to deploy: safetensors, ``torch.export``, ONNX, int8; checked, measured, described."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch

from understudy.build import read_model
from understudy.data import Splits
from understudy.data.images import ImageSet
from understudy.data.splits import labelled
from understudy.engine.console import Console
from understudy.engine.measure import measure as measure_scores
from understudy.exports.card import model_card
from understudy.exports.finished import FinishedRun
from understudy.exports.int8 import calibration_set, to_int8
from understudy.exports.onnx import CPU, OPSET, compare, to_onnx
from understudy.exports.program import capture, write_program
from understudy.exports.table import Entry, Row, as_json, lines, measure
from understudy.exports.weights import write_weights
from understudy.files import write_atomic, write_json, write_text
from understudy.models.onnx import OnnxNetwork, onnx_module
from understudy.result import count_parameters
from understudy.words import did_you_mean

Format: TypeAlias = Literal["safetensors", "pt2", "onnx", "int8"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILES: dict[Format, str] = {
    "safetensors": "model.safetensors",
    "pt2": "model.pt2",
    "onnx": "model.onnx",
    "int8": "model-int8.onnx",
}
"""Format -> name of its file in the export folder."""
_REPORT, _CARD = "export.json", "README.md"
REPORT_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    files: dict[Format, Path]
    report: dict[str, Any]
    """The content of ``export.json``: the figures of every format, and the table of sizes and latencies."""


def export(
    run: str | Path, formats: Iterable[str] = ("all",), out: str | Path | None = None, *, quiet: bool = False
) -> Exported:
    """Writes the student of a finished run in forms that others can use.

    ONNX is compared with PyTorch on the run's test images (on held-out ones if there are none, else on training images)
    and not written if it differs. int8 is calibrated on training images. For both, teacher and student are timed side
    by side. Beside the files stand ``export.json`` with all figures of this call, and ``README.md``, the model card.

    Args:
        run: a run folder.
        formats: among ``safetensors``, ``pt2``, ``onnx``, ``int8``; ``all`` stands for all of them.
        out: folder to write into; by default ``export`` in the run's.
        quiet: print nothing.

    Returns:
        the files that were written, and the content of ``export.json``.

    Raises:
        ValueError: the run is not finished; a format is unknown; ``out`` has a model or a README that no export wrote;
            the extra ``onnx`` is not installed; the network holds an operator that the format lacks; the data are gone
            (which only ONNX and int8 need).
    """
    finished = FinishedRun.read(Path(run))
    kinds = _kinds(formats, finished.task.name == "detection")
    folder = finished.folder / "export" if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out must be a folder, got {folder}, which is a file. Choose another")
    _check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    job = _Export(finished, folder, Console(quiet=quiet))
    if not (folder / _REPORT).exists():  # from here on the folder is an export's, however this one ends
        write_json(folder / _REPORT, job.report)
    if "safetensors" in kinds:
        figures = write_weights(job.path("safetensors"), finished)
        job.note_file("safetensors", figures, "the weights as trained")
    if kinds != {"safetensors"}:
        predictor, name = finished.predictor, finished.config.student.model
        program = capture(finished.deployed, predictor.channels, predictor.image_size, name)
        if "pt2" in kinds:
            figures = write_program(job.path("pt2"), program)
            job.note_file("pt2", figures, "a torch.export program, any number of images")
        if kinds & {"onnx", "int8"}:
            job.write_onnx(to_onnx(program, finished.about(), name), kinds)
    write_json(folder / _REPORT, job.report)
    names = {kind: path.name for kind, path in job.files.items()}
    write_text(folder / _CARD, model_card(finished, names, job.report, job.rows))
    job.console.say(f"{'card':<11} {folder / _CARD}")
    return Exported(folder, job.files, job.report)


def _check_folder(folder: Path) -> None:
    """Refuses a folder whose model or README is no export's; those of an earlier export are replaced."""
    if (folder / _REPORT).exists():
        return
    if theirs := [name for name in (*FILES.values(), _CARD) if (folder / name).exists()]:
        raise ValueError(
            f"out must be a new folder or an earlier export's, got {folder}, which has a {theirs[0]} of its own. "
            "Choose another, or move it away"
        )


class _Export:
    """One export under way: what was written and found so far."""

    def __init__(self, run: FinishedRun, folder: Path, console: Console) -> None:
        self.run, self.folder, self.console = run, folder, console
        self.files: dict[Format, Path] = {}
        self.rows: list[Row] = []
        self.report: dict[str, Any] = {
            "format": REPORT_FORMAT,
            "run": run.result["name"],
            "model": run.config.student.model,
            "machine": {"processor": platform.machine(), "torch": torch.__version__},
        }

    def path(self, kind: Format) -> Path:
        """Returns where a format is written."""
        return self.folder / FILES[kind]

    def note_file(self, kind: Format, figures: dict[str, Any], found: str) -> None:
        """Notes a file that was written, and says what was found of it."""
        path = self.files[kind] = self.path(kind)
        self.report[kind] = {"file": path.name, **figures}
        self.console.say(f"{kind:<11} {path} ({figures['bytes'] / 1e6:.2f} MB): {found}")

    def write_onnx(self, model: bytes, kinds: set[Format]) -> None:
        """Checks the ONNX file, writes it and its int8 form as asked for, and measures the table."""
        self.report["machine"]["onnxruntime"] = onnx_module("onnxruntime", "the ONNX export").__version__
        data = self.run.data()
        split, images = _judge(data)
        batches = self.run.batches(images)
        task, classes = self.run.task, len(data.classes)
        network = OnnxNetwork(model, FILES["onnx"])
        checked, measured = compare(task, self.run.deployed, network, batches, classes)
        score, title = task.primary, task.titles[task.primary]
        before = measured.scores[score]
        entries = self._teachers(data)
        entries["student"] = Entry(model, self.run.parameters, before if split == "test" else None)
        if "onnx" in kinds:
            write_atomic(self.path("onnx"), lambda file: file.write(model))
            figures = {"bytes": len(model), "opset": OPSET, "split": split, **checked, score: before}
            self.note_file(
                "onnx",
                figures,
                f"opset {OPSET}; on {checked['images']:,} {split} images logits within "
                f"{checked['max_difference']:.1e} of PyTorch, same class on {checked['agreement']:.2f}%"
                + " of the labelled pixels"
                * (task.name == "segmentation"),
            )
        if "int8" in kinds:
            calibration = calibration_set(data.train)
            small = to_int8(model, self.run.batches(calibration), self.run.about())
            quantised = {"int8": OnnxNetwork(small, FILES["int8"])}
            after = measure_scores(task, quantised, batches, classes, CPU)["int8"].scores[score]
            entries["student-int8"] = Entry(small, self.run.parameters, after if split == "test" else None)
            write_atomic(self.path("int8"), lambda file: file.write(small))
            figures = {
                "bytes": len(small),
                "quantisation": "static, QDQ, weights int8 per channel (7 bits used), activations uint8",
                "calibration": {"split": "train", "images": len(calibration)},
                "split": split,
                "images": len(images),
                f"{score}_before": before,
                f"{score}_after": after,
            }
            found = f"calibrated on {len(calibration):,} training images; {split} {title} {before:.2f}% -> {after:.2f}%"
            self.note_file("int8", figures, found)
        self.rows = measure(entries, data.channels, data.image_size)
        self.report["table"] = as_json(self.rows, score)
        for line in lines(self.rows, title):
            self.console.say(line)

    def _teachers(self, data: Splits) -> dict[str, Entry]:
        """Returns the teachers' entries in the table; one that cannot be had is noted instead."""
        entries = {}
        guides = self.run.config.guides
        for name, guide in guides.items():
            try:
                module = read_model(guide, data, CPU)
                model = to_onnx(
                    capture(self.run.full_size(module), data.channels, data.image_size, guide.model),
                    {},
                    guide.model,
                )
            except (
                ValueError
            ) as error:  # it is the student that is exported: no file of its depends on this row
                note = f"{name} is not in the table: {error}"
                self.report.setdefault("notes", []).append(note)
                self.console.say(f"note: {note}")
            else:
                # of several teachers the run has measured the mean logits, not each
                found = (
                    self.run.result["teacher"].get(f"test/{self.run.task.primary}")
                    if len(guides) == 1
                    else None
                )
                entries[name] = Entry(model, count_parameters(module), found)
        return entries


def _kinds(formats: Iterable[str], detects: bool = False) -> set[Format]:
    """Returns what is asked for; of a detector ``all`` is safetensors alone.

    Raises:
        ValueError: an unknown format, none, one that needs an extra that is not installed, or one without detectors.
    """
    asked = [formats] if isinstance(formats, str) else list(formats)
    for name in asked:
        if name not in (*FORMATS, "all"):
            hint = did_you_mean(name, (*FORMATS, "all"))
            raise ValueError(f"formats to export to must be known, got {name!r}. {hint}")
    programs = [name for name in asked if detects and name in FORMATS and name != "safetensors"]
    if programs:
        raise ValueError(
            f"a detector must be exported to safetensors, got {', '.join(programs)}: how many boxes an image leaves "
            "depends on its pixels, which neither torch.export nor ONNX can follow for any number of images. "
            "Use --to safetensors"
        )
    if detects and "all" in asked:
        return {"safetensors"}
    kinds: set[Format] = {kind for kind in FORMATS if kind in asked or "all" in asked}
    if not kinds:
        raise ValueError("formats must name at least one, got none. Choose for instance onnx, or all")
    if kinds & {"onnx", "int8"}:
        for package in ("onnx", "onnxscript", "onnxruntime"):  # before anything is written
            onnx_module(package, "export to ONNX and int8")
    return kinds


def _judge(data: Splits) -> tuple[str, ImageSet]:
    """Returns the part of the data that files are compared on, and its images."""
    if data.test is not None:
        return "test", data.test
    if data.val is not None:
        return "val", data.val
    known = labelled(data.train)
    if len(known) == 0:
        raise ValueError(
            "an export to onnx or int8 must have images with labels to be compared on, got none. Set data.test, or "
            "export to safetensors or pt2"
        )
    return "train", known
