"""What a finished run leaves behind: the last measurement, `result.json`, the deployable weights."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from understudy.build import Built, divided_batches, teacher_batches
from understudy.config import Config
from understudy.engine.checkpoint import load_checkpoint
from understudy.engine.distiller import Distiller
from understudy.engine.distributed import Ranks
from understudy.engine.evaluate import Answers, answers, evaluating
from understudy.engine.loop import Job
from understudy.engine.memory import peak_bytes
from understudy.files import json_line, read_json_lines, write_atomic, write_json, write_text
from understudy.metrics import confusion_matrix, correct, top1_agreement
from understudy.report.mistakes import write_mistakes

FORMAT = 1


def finish(verb: str, job: Job, built: Built) -> dict[str, Any]:
    """Measures the run once on the test images and writes ``result.json`` and ``student.safetensors``.

    Several processes measure a part each; the first one writes. The images that went through the teacher are those of
    all processes, since the run was started or resumed.

    Returns:
        the content of ``result.json``.
    """
    result = summary(verb, job, built)
    if result["teacher"] and result["teacher"]["images_forwarded"] is not None:
        result["teacher"]["images_forwarded"] = sum(job.ranks.exchange(result["teacher"]["images_forwarded"]))
    with job.measured():
        student = job.distiller.deployable().eval()
    result["parameters"] = count_parameters(student)
    if job.ranks.is_first:
        write_weights(job.folder / "student.safetensors", student, built)
    if built.data.test is not None:
        batches = divided_batches(built.data.test, built, job.device)
        last, theirs = answers(student, batches), None
        result["last"] |= accuracy("test", last)
        result["confusion"] = confusion_matrix(last.logits, last.target).tolist()
        if job.distiller.guides:
            theirs = answers(
                job.distiller.guides.predict, teacher_batches(built.data.test, built, job.device)
            )
            result["teacher"] |= accuracy("test", theirs) | agreement(last, theirs)
            result["teacher"]["class_acc1"] = _by_class(theirs)
        if job.best is not None:
            result["best"] |= accuracy("test", _best_answers(job, batches))
        if job.ranks.is_first:
            images, theirs_logits = built.data.test.images, None if theirs is None else theirs.logits
            write_mistakes(job.folder, images, last.target, last.logits, theirs_logits)
            _append_to_last_line(job.folder / "metrics.jsonl", accuracy("test", last))
    result["status"] = "finished"

    def write() -> dict[str, Any]:
        write_json(job.folder / "result.json", result)
        return result

    return job.ranks.first(write)


def summary(verb: str, job: Job, built: Built) -> dict[str, Any]:
    """Returns what can be said of a run at any time, by this process alone, of whose work it tells."""
    config, lines = built.config, read_json_lines(job.folder / "metrics.jsonl")
    last = {"epoch": job.epoch} | (
        {"val/acc1": lines[-1]["val/acc1"]} if lines and "val/acc1" in lines[-1] else {}
    )
    guides = built.distiller.guides.networks
    forwarded = {name: answers.forwarded for name, answers in job.stream.answers.items()}
    return {
        "format": FORMAT,
        "verb": verb,
        "status": "unfinished",
        "name": Path(config.output).name,
        "model": config.student.model,
        "parameters": count_parameters(built.distiller.student),
        "extra_parameters": _extra_parameters(built.distiller),
        "peak_memory_mib": round(peak_bytes(job.device) / 2**20, 1),
        "epochs": config.train.epochs,
        "seconds": round(job.seconds, 2),
        "classes": list(built.data.classes),
        "last": last,
        "best": None if job.best is None else {**job.best, "chosen_on": "val"},
        "divergence": job.watch.report(),
        "teacher": None
        if not guides
        else {
            "model": " + ".join(guide.model for guide in config.guides.values()),
            "parameters": sum(count_parameters(network.module) for network in guides.values()),
            "images_forwarded": sum(forwarded.values()) if len(forwarded) == len(guides) else None,
        },
    }


def _extra_parameters(distiller: Distiller) -> int:
    """Returns how many parameters are trained beside the student and thrown away."""
    kept = set(distiller.deployed_names())
    return sum(p.numel() for name, p in distiller.named_parameters() if name not in kept and p.requires_grad)


def accuracy(name: str, measured: Answers) -> dict[str, float]:
    """Returns ``NAME/acc1`` and ``NAME/acc5`` in percent."""
    first, fifth = correct(measured.logits, measured.target, (1, 5)).tolist()
    return {
        f"{name}/acc1": 100 * first / len(measured.target),
        f"{name}/acc5": 100 * fifth / len(measured.target),
    }


def agreement(student: Answers, teacher: Answers) -> dict[str, float]:
    """Returns the share of images to which both give the same class, in percent."""
    return {"agreement": 100 * float(top1_agreement(student.logits, teacher.logits))}


def headline(result: dict[str, Any]) -> str:
    """Returns the number of a run and how it was chosen, as one line."""
    last = result["last"]
    if "test/acc1" in last:
        line = f"test top-1 {last['test/acc1']:.2f}% after the last epoch"
    elif "val/acc1" in last:
        line = f"held-out top-1 {last['val/acc1']:.2f}% (last epoch; there are no test images)"
    else:
        line = "trained; there are no test or held-out images to measure"
    teacher = result.get("teacher") or {}
    return line + (f"; teacher {teacher['test/acc1']:.2f}%" if "test/acc1" in teacher else "")


def write_weights(path: Path, student: nn.Module, built: Built) -> None:
    """Writes the deployable weights with what is needed to use them, as safetensors."""
    data, config = built.data, built.config
    about = {
        "model": config.student.model,
        "classes": json.dumps(list(data.classes)),
        "mean": json.dumps(list(data.mean)),
        "std": json.dumps(list(data.std)),
        "image_size": json.dumps(list(data.image_size)),
        "channels": str(data.channels),
    }
    if config.student.options:
        about["options"] = json.dumps(config.student.options)
    replacing = built.distiller.replacing
    if replacing is not None:  # more than the student is shipped: how to build it
        guide = config.guides[replacing.teacher or next(iter(config.guides))]
        about["deployed"] = json.dumps(
            {
                "term": replacing.spec(),
                "teacher": guide.model,
                "options": guide.options,
                "taps": [dict(config.student.taps), dict(guide.taps)],
            }
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    content = save(tensors, metadata=about)
    write_atomic(path, lambda file: file.write(content))


def environment(config: Config) -> dict[str, Any]:
    """Returns the machine and the versions a run was made with."""
    packages = ("torch", "torchvision", "numpy", "pillow", "understudy-distill")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    device = config.train.device
    return {
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": config.train.threads,
        "processes": Ranks().world,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }


def count_parameters(module: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(p.numel() for p in module.parameters())


def _by_class(measured: Answers) -> list[float | None]:
    """Returns the accuracy of every class in percent, ``None`` for one without an image."""
    matrix = confusion_matrix(measured.logits, measured.target)
    return [
        100 * right / images if images else None
        for right, images in zip(matrix.diagonal().tolist(), matrix.sum(dim=1).tolist(), strict=True)
    ]


def _best_answers(job: Job, batches: Any) -> Answers:
    """Returns the answers of the best epoch's state; the present state is put back after."""
    distiller = job.distiller
    present = {name: tensor.clone() for name, tensor in distiller.whole_state().items()}
    try:
        best = job.ranks.first(lambda: load_checkpoint(job.folder / "checkpoints" / "best.pt")["model"])
        distiller.take_state(best)
        with distiller.assembled(), evaluating(distiller):
            return answers(distiller.predict, batches)
    finally:
        distiller.take_state(present)


def _append_to_last_line(path: Path, values: dict[str, float]) -> None:
    lines = read_json_lines(path)
    if lines:  # or they were lost
        lines[-1] |= values
    write_text(path, "".join(json_line(line) + "\n" for line in lines))
