"""Do two losses collapse because they share a head, or because one overflows (DHKD, Figure 2 and App. A)?

    python benchmarks/figure2.py --train train.parquet --test test.parquet --teacher teacher.safetensors --out FOLDER

The paper reports that cross-entropy and BinaryKL on one head collapse unless BinaryKL weighs less than 0.1, and
explains it by their gradients. The released code clamps its sigmoids to [1e-8, 1 - 1e-8]; in float32 the upper end is
1, so a logit of 35 at temperature 2 makes the loss infinite. Its gradient there depends on whether the clamp counts
its own end as inside: NaN if it does, exactly 0 if it does not (as in torch 2.15, whose clamp compares in float64).
Here every arm is trained with three forms of one loss: the library's, which is finite for every logit, and the
released one with either gradient, which is kept in this file and nowhere else. What the logits and both losses'
gradients do is written down every few steps, and whether the released form would have been finite on the very same
logits.

Each run is an ordinary run folder and resumes; FOLDER/table.md and FOLDER/table.json are made of all that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import understudy as us
from understudy.files import append_line, read_json, read_json_lines, write_json, write_text

TEMPERATURE = 2.0
EVERY = 10
"""Steps between two looks at logits and gradients."""


def released_binary_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Returns BinaryKL of clamped sigmoids: infinite where one of the student's rounds to 1, the gradient NaN."""
    ours, theirs = (_clamped(logits / temperature) for logits in (student_logits, teacher_logits))
    divergence = theirs * (theirs / ours).log() + (1 - theirs) * ((1 - theirs) / (1 - ours)).log()
    return temperature**2 * divergence.sum(dim=1).mean()


def masked_binary_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Returns the same with a gradient of 0 where a sigmoid rounds to 1; there it counts as 0, not as infinity."""
    ours, theirs = student_logits, teacher_logits
    ones = (torch.sigmoid(ours / temperature) == 1) | (torch.sigmoid(theirs / temperature) == 1)
    return released_binary_kl(torch.where(ones, 0.0, ours), torch.where(ones, 0.0, theirs), temperature)


def _clamped(scaled: Tensor) -> Tensor:
    """Returns sigmoids clamped at both ends, which count as inside."""
    ends = scaled.new_tensor([1e-8, 1 - 1e-8])  # in float32 the second one is 1
    return torch.maximum(torch.minimum(torch.sigmoid(scaled), ends[1]), ends[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedBinaryKL(us.Method):
    """BinaryKL as the released code has it."""

    paper: ClassVar[str] = "DHKD, released code"
    student_taps: ClassVar[tuple[str, ...]] = ("logits",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("logits",)
    masked: bool = False
    """Whether the gradient is 0 where a sigmoid rounds to 1, instead of NaN."""

    def loss(self, student: us.Outputs, teacher: us.Outputs, batch: us.Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns the loss, with its overflow."""
        form = masked_binary_kl if self.masked else released_binary_kl
        return form(student["logits"], teacher["logits"], TEMPERATURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics(us.Method):
    """Changes nothing; writes down what logits and gradients are like."""

    paper: ClassVar[str] = "our own"
    student_taps: ClassVar[tuple[str, ...]] = ("logits",)
    teacher_taps: ClassVar[tuple[str, ...]] = ("logits",)
    file: str

    def heads(self, setup: us.Setup) -> nn.ModuleDict:
        """Returns what counts the steps; it is saved with the run, so a resumed one goes on."""
        counter = nn.Module()
        counter.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        return nn.ModuleDict({"counter": counter})

    def loss(self, student: us.Outputs, teacher: us.Outputs, batch: us.Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns 0."""
        steps = heads["counter"].steps
        if int(steps) % EVERY == 0:
            line = {"step": int(steps), **statistics(student["logits"], teacher["logits"], batch.target)}
            append_line(Path(self.file), json.dumps(line))
        steps += 1
        return student["logits"].new_zeros(())


@torch.no_grad()
def statistics(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> dict[str, float | bool]:
    """Returns what one batch's logits say.

    ``label_gradient`` and ``teacher_gradient`` are the mean norms of an image's ∂CE/∂z and ∂BinaryKL/∂z; ``cosine``
    is the mean cosine between them. ``ones`` is the share of sigmoids that are 1 in float32.
    """
    z, t = student_logits.float(), teacher_logits.float()
    label = z.softmax(dim=1) - F.one_hot(target, z.shape[1])
    guide = TEMPERATURE * (torch.sigmoid(z / TEMPERATURE) - torch.sigmoid(t / TEMPERATURE))
    predicted = z.argmax(dim=1)
    return {
        "largest_logit": float(z.abs().max()),
        "mean_logit": float(z.abs().mean()),
        "teacher_largest_logit": float(t.abs().max()),
        "ones": float((torch.sigmoid(z / TEMPERATURE) == 1).float().mean()),
        "released_is_finite": bool(released_binary_kl(z, t, TEMPERATURE).isfinite()),
        "label_gradient": float(label.norm(dim=1).mean()),
        "teacher_gradient": float(guide.norm(dim=1).mean()),
        "cosine": float(F.cosine_similarity(label, guide, dim=1).mean()),
        "accuracy": float((predicted == target).float().mean()),
        "top_class": float(predicted.bincount(minlength=z.shape[1]).max() / len(z)),
    }


CE = {"name": "ce"}
FORMS: dict[str, dict[str, Any]] = {
    "stable": {"name": "binary_kl"},
    "released": {"name": "__main__:ReleasedBinaryKL"},
    "released, masked": {"name": "__main__:ReleasedBinaryKL", "masked": True},
}
ARMS: dict[str, list[dict[str, Any]]] = {
    "ce": [CE],
    **{f"binary_kl, {form}": [term] for form, term in FORMS.items()},
    **{
        f"ce + {weight:g} binary_kl, {form}": [CE, {**term, "weight": weight}]
        for weight in (1.0, 0.1)
        for form, term in FORMS.items()
    },
    "dhkd": [CE, {"name": "dhkd", "temperature": TEMPERATURE}],
}


def config(options: argparse.Namespace, arm: str, seed: int, lr: float) -> dict[str, Any]:
    """Returns the config of one run: the budget of the paper, or a share of it."""
    folder = Path(options.out) / f"{arm.replace(', ', '-').replace(' ', '_')}" / f"lr-{lr:g}" / f"seed-{seed}"
    epochs = options.epochs
    milestones = sorted({max(1, round(epochs * m / 240)) for m in (150, 180, 210)})
    statistics = {"name": "__main__:Statistics", "file": str(folder.with_suffix(".statistics.jsonl"))}
    return {
        "seed": seed,
        "data": {"name": "parquet", "train": options.train, "test": options.test, "val": 0.1, "seed": 0},
        "teacher": {
            "model": options.teacher_model,
            "weights": options.teacher,
            "tables": str(Path(options.out) / "tables"),  # all runs see the same views
        },
        "student": {"model": options.student_model},
        "losses": [*ARMS[arm], statistics],
        "train": {
            "epochs": epochs,
            "batch_size": 64,
            "optimizer": {"name": "sgd", "lr": lr, "momentum": 0.9, "weight_decay": 5.0e-4},
            "schedule": {"name": "multistep", "milestones": milestones, "gamma": 0.1},
            "divergence": {
                "policy": "stop",
                "explosion": None,
                "collapse_epochs": None,
            },  # NaN alone ends a run
        },
        "output": str(folder),
    }


def outcome(folder: Path) -> dict[str, Any] | None:
    """Returns one run's line of the table, ``None`` if it has not ended."""
    if not (folder / "result.json").exists():
        return None
    result = read_json(folder / "result.json")
    if result["status"] not in ("finished", "diverged"):
        return None
    looks = read_json_lines(folder.with_suffix(".statistics.jsonl"))
    seen = list({line["step"]: line for line in looks}.values())  # a resumed run looks twice at some steps
    curve = [line["val/acc1"] for line in read_json_lines(folder / "metrics.jsonl") if "val/acc1" in line]
    return {
        "status": result["status"],
        "message": result.get("message"),
        "test/acc1": result["last"].get("test/acc1"),
        "val/acc1": curve,
        "largest_logit": max(line["largest_logit"] for line in seen),
        "largest_logit_at_the_end": seen[-1]["largest_logit"],
        "ones": max(line["ones"] for line in seen),
        "released_not_finite": sum(not line["released_is_finite"] for line in seen) / len(seen),
        "label_gradient": _middle(line["label_gradient"] for line in seen),
        "teacher_gradient": _middle(line["teacher_gradient"] for line in seen),
        "opposed": sum(line["cosine"] < 0 for line in seen) / len(seen),
        "top_class": seen[-1]["top_class"],
    }


def _middle(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def write_up(folder: Path, options: argparse.Namespace) -> None:
    """Writes the table of all runs that are there."""
    runs = []
    for arm in ARMS:
        for lr in options.lr:
            for seed in options.seeds:
                found = outcome(Path(config(options, arm, seed, lr)["output"]))
                if found is not None:
                    runs.append({"arm": arm, "lr": lr, "seed": seed, **found})
    write_json(folder / "table.json", {"epochs": options.epochs, "runs": runs})
    heads = [
        "arm",
        "lr",
        "seed",
        "test top-1",
        "largest logit",
        "released form not finite",
        "median ‖∂CE/∂z‖",
    ]
    heads += ["median ‖∂BinaryKL/∂z‖", "gradients opposed", "ended"]
    lines = [heads, ["---"] * len(heads)]
    for run in runs:
        score = "–" if run["test/acc1"] is None else f"{run['test/acc1']:.2f}"
        numbers = [f"{run['largest_logit']:.1f}", f"{100 * run['released_not_finite']:.1f}% of looks"]
        numbers += [
            f"{run['label_gradient']:.3f}",
            f"{run['teacher_gradient']:.3f}",
            f"{100 * run['opposed']:.0f}%",
        ]
        ended = "after the last epoch" if run["status"] == "finished" else run["message"].partition(". ")[0]
        lines.append([run["arm"], f"{run['lr']:g}", str(run["seed"]), score, *numbers, ended])
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    write_text(
        folder / "table.md",
        f"{options.teacher_model} → {options.student_model}, {options.epochs} epochs of the paper's 240, batch 64. "
        f"A look is every {EVERY}th step.\n\n{table}\n",
    )


def main() -> None:
    """Runs every arm that has not ended, and writes the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("train", "test", "teacher", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--teacher-model", default="wrn_16_2")
    parser.add_argument("--student-model", default="wrn_16_1")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args()
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    runs = len(options.seeds) * len(options.lr) * len(options.arms)
    for seed in options.seeds:
        for lr in options.lr:
            for arm in options.arms:
                job = config(options, arm, seed, lr)
                if outcome(Path(job["output"])) is not None:
                    continue
                try:
                    us.distill(job, runs=runs)
                except ValueError as error:  # NaN: that is an answer, too
                    if outcome(Path(job["output"])) is None:
                        raise
                    print(f"{arm}, lr {lr:g}, seed {seed}: {error}")
                write_up(folder, options)
    write_up(folder, options)


if __name__ == "__main__":
    main()
