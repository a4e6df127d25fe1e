"""What a finished run leaves behind: the last measurement, `result.json`, the deployable weights."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from understudy.build import Built, divided_batches, eval_batches
from understudy.config import Config
from understudy.data import BoxSet
from understudy.data.undecoded import cores
from understudy.engine.checkpoint import load_checkpoint
from understudy.engine.distiller import Distiller
from understudy.engine.distributed import Ranks
from understudy.engine.evaluate import answers
from understudy.engine.loop import Job
from understudy.engine.measure import Measured, measure
from understudy.engine.memory import peak_bytes
from understudy.files import json_line, read_json_lines, write_atomic, write_json, write_text
from understudy.models.translated import Translated, options_of, untranslated
from understudy.report.examples import MOST, write_box_examples, write_examples
from understudy.report.mistakes import write_mistakes
from understudy.tasks import task_named
from understudy.tasks.segmentation import at_size

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
        batches, task, classes = (
            divided_batches(built.data.test, built, job.device),
            job.task,
            len(built.data.classes),
        )
        networks: dict[str, Callable[[Tensor], Tensor]] = {"student": student}
        if job.distiller.guides:
            networks["teacher"] = job.distiller.guides.predict
        found = measure(task, networks, batches, classes, job.device)
        last, theirs = found["student"], found.get("teacher")
        result["last"] |= named("test", last)
        result["measured"] = last.samples
        if last.confusion is not None:
            result["confusion"] = last.confusion.tolist()
        if task.name != "classification":
            result[task.per_class] = last.by_class
        if theirs is not None:
            result["teacher"] |= named("test", theirs) | {"agreement": theirs.agreement}
            result["teacher"][task.per_class] = theirs.by_class
        if job.best is not None:
            result["best"] |= named("test", _best(job, batches, classes))
        if job.ranks.is_first:
            _write_examples(job, built, last, theirs, networks)
            _append_to_last_line(job.folder / "metrics.jsonl", named("test", last))
    result["status"] = "finished"

    def write() -> dict[str, Any]:
        write_json(job.folder / "result.json", result)
        return result

    return job.ranks.first(write)


def summary(verb: str, job: Job, built: Built) -> dict[str, Any]:
    """Returns what can be said of a run at any time, by this process alone, of whose work it tells."""
    config, lines = built.config, read_json_lines(job.folder / "metrics.jsonl")
    held_out = [f"val/{score}" for score in job.task.titles]
    last = {"epoch": job.epoch} | {key: lines[-1][key] for key in held_out if lines and key in lines[-1]}
    guides = built.distiller.guides.networks
    forwarded = {name: answers.forwarded for name, answers in job.stream.answers.items()}
    return {
        "format": FORMAT,
        "verb": verb,
        "task": job.task.name,
        "status": "unfinished",
        "name": Path(config.output).name,
        "model": config.student.model,
        "parameters": count_parameters(built.distiller.student),
        "extra_parameters": _extra_parameters(built.distiller),
        "peak_memory_mib": round(peak_bytes(job.device) / 2**20, 1),
        "epochs": config.train.epochs,
        "seconds": round(job.seconds, 2),
        "classes": list(built.data.classes),
        "weights": job.inputs.get("files", {}),
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


def named(name: str, measured: Measured) -> dict[str, float]:
    """Returns the scores as ``NAME/acc1`` and so on, in percent."""
    return {f"{name}/{score}": value for score, value in measured.scores.items()}


def headline(result: dict[str, Any]) -> str:
    """Returns the number of a run and how it was chosen, as one line."""
    last, task = result["last"], task_named(result.get("task"))
    test, val, title = f"test/{task.primary}", f"val/{task.primary}", task.titles[task.primary]
    if test in last:
        line = f"test {title} {last[test]:.2f}% after the last epoch"
    elif val in last:
        line = f"held-out {title} {last[val]:.2f}% (last epoch; there are no test images)"
    else:
        line = "trained; there are no test or held-out images to measure"
    teacher = result.get("teacher") or {}
    return line + (f"; teacher {teacher[test]:.2f}%" if test in teacher else "")


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
    if config.data.resize is not None:
        about["resize"] = str(config.data.resize)
    if (task := built.distiller.task.name) != "classification":
        about["task"] = task
    if options := options_of(built.distiller.student, config.student.options):
        about["options"] = json.dumps(options)
    replacing = built.distiller.replacing
    if replacing is not None:  # more than the student is shipped: how to build it
        name = replacing.teacher or next(iter(config.guides))
        guide, module = config.guides[name], built.distiller.guides.networks[name].module
        about["deployed"] = json.dumps(
            {
                "term": replacing.spec(),
                "teacher": guide.model,
                "options": options_of(module, guide.options),
                "taps": [dict(config.student.taps), dict(guide.taps)],
            }
        )
    if isinstance(student, Translated):
        about["preprocess"] = json.dumps(student.preprocess)
    plain = untranslated(student)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in plain.state_dict().items()}
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
        "processor": processor(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "threads": config.train.threads,
        "processes": Ranks().world,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }


def processor() -> str:
    """Returns the model of the processor, as far as the system says."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    model = named.get("model name", platform.processor() or platform.machine())
    return f"{model} family {named['cpu family']} model {named['model']}" if "cpu family" in named else model


def count_parameters(module: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(p.numel() for p in module.parameters())


def _best(job: Job, batches: Any, num_classes: int) -> Measured:
    """Returns what the best epoch's state is worth; the present state is put back after."""
    distiller = job.distiller
    present = {name: tensor.clone() for name, tensor in distiller.whole_state().items()}
    try:
        best = job.ranks.first(lambda: load_checkpoint(job.folder / "checkpoints" / "best.pt")["model"])
        distiller.take_state(best)
        shipped = distiller.deployable().eval()  # as the last epoch is measured
        return measure(job.task, {"best": shipped}, batches, num_classes, job.device)["best"]
    finally:
        distiller.take_state(present)


def _write_examples(
    job: Job,
    built: Built,
    ours: Measured,
    theirs: Measured | None,
    networks: Mapping[str, Callable[[Tensor], Tensor]],
) -> None:
    """Writes test images for the report: those that were classified wrongly, or some with their masks or boxes."""
    test = built.data.test
    assert test is not None
    if job.task.name == "multilabel":  # which of them are wrong is no yes or no
        return
    if ours.answers is not None:
        others = None if theirs is None or theirs.answers is None else theirs.answers.logits
        write_mistakes(job.folder, test.images, ours.answers.target, ours.answers.logits, others)
        return
    chosen = torch.linspace(0, len(test) - 1, min(MOST, len(test))).long()
    batches = eval_batches(test.subset(chosen), built, job.device)
    images = test.images
    assert isinstance(images, Tensor)  # sets with masks or boxes are always in memory
    alone = {
        name: net for name, net in networks.items() if name == "student" or not job.distiller.guides.divided
    }
    if isinstance(test, BoxSet):
        found = {name: answers(network, batches).logits for name, network in alone.items()}
        write_box_examples(job.folder, chosen.tolist(), images[chosen], test.targets[chosen], found)
        return
    masks: dict[str, Tensor] = {"truth": test.targets[chosen]}
    for name, network in alone.items():  # of several processes only the first is here
        with torch.no_grad():
            shown = [at_size(network(b.images).float(), b.target).argmax(dim=1) for b in batches]
        masks[name] = torch.cat(shown).to(torch.uint8)
    write_examples(job.folder, chosen.tolist(), images[chosen], masks)


def _append_to_last_line(path: Path, values: dict[str, float]) -> None:
    lines = read_json_lines(path)
    if lines:  # or they were lost
        lines[-1] |= values
    write_text(path, "".join(json_line(line) + "\n" for line in lines))
