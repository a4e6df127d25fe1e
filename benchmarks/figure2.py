"""Do two losses collapse because they share a head, or because one overflows (DHKD, Figure 2 and App. A)?

    python benchmarks/figure2.py --train train.parquet --test test.parquet --teacher teacher.safetensors --out FOLDER

The paper reports that cross-entropy and BinaryKL on one head collapse unless BinaryKL weighs less than 0.1, and
explains it by their gradients, which are to oppose each other in the classifier but not in the backbone. The released
code clamps its sigmoids to [1e-8, 1 - 1e-8]; in float32 the upper end is 1, so a logit of 35 at temperature 2 makes
the loss infinite, in DHKD's normalised form a student's logit 35 above the teacher's. The gradient there depends on
whether the clamp counts its own end as inside: NaN if it does, exactly 0 if it does not (as in torch 2.15, whose clamp
compares in float64). Here every arm is trained with three forms of one loss: the library's, which is finite for every
logit, and the released one with either gradient, which is kept in this file and nowhere else. What the logits and
both losses' gradients do, in the classifier and in the feature, is written down every few steps, and at each step at
which the loss comes near its overflow; and whether the released form would have been finite on the very same logits.

``--scale`` multiplies the teacher's logits: its classifier's weights are scaled, nothing else. A network trained for 12
epochs has smaller logits than one trained for 240, and what overflows is a logit. The weights 64 and 6.4 are 1 and 0.1
of a loss that is summed over a batch of 64, as the paper's Eq. 1 is written, in place of the mean of its code.

Each run is an ordinary run folder and resumes; FOLDER/table.md and FOLDER/table.json are made of all that are there.
``--again`` makes the runs of such a table; ours is results/figure2/table.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import understudy as us
from understudy.config import load_config
from understudy.files import append_line, read_json, read_json_lines, write_json, write_text
from understudy.job import outcome
from understudy.methods.dhkd import DHKD
from understudy.methods.presets import preset

TEMPERATURE = 2.0
EVERY = 10
"""Steps between two looks at logits and gradients."""
NEAR = 25.0
"""A logit, or a gap of logits, from which every step is looked at; at 34 the released form overflows."""


def released_binary_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Returns BinaryKL ``(B,)`` of clamped sigmoids: infinite where one of them rounds to 1, the gradient NaN."""
    ours, theirs = (_clamped(logits / temperature) for logits in (student_logits, teacher_logits))
    divergence = theirs * (theirs / ours).log() + (1 - theirs) * ((1 - theirs) / (1 - ours)).log()
    return temperature**2 * divergence.sum(dim=1)


def released_binary_kl_norm(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Returns BinaryKL-Norm likewise: BinaryKL of the logits' gap against 0."""
    gap = student_logits - teacher_logits
    return released_binary_kl(gap, torch.zeros_like(gap), temperature)


def masked_binary_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Returns BinaryKL with a gradient of 0 where a sigmoid rounds to 1; there it counts as 0, not as infinity."""
    ours, theirs = student_logits, teacher_logits
    ones = (torch.sigmoid(ours / temperature) == 1) | (torch.sigmoid(theirs / temperature) == 1)
    return released_binary_kl(torch.where(ones, 0.0, ours), torch.where(ones, 0.0, theirs), temperature)


def masked_binary_kl_norm(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Returns BinaryKL-Norm likewise."""
    gap = student_logits - teacher_logits
    return masked_binary_kl(gap, torch.zeros_like(gap), temperature)


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
        return form(student["logits"], teacher["logits"], TEMPERATURE).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedDHKD(DHKD):
    """DHKD with any form of its loss; writes down what both heads are like."""

    student_taps: ClassVar[tuple[str, ...]] = ("feature", "logits")
    form: str
    file: str

    def heads(self, setup: us.Setup) -> nn.ModuleDict:
        """Returns the auxiliary head, and what counts the steps."""
        heads = DHKD.heads(self, setup)
        heads["counter"] = _counter()
        return heads

    def loss(self, student: us.Outputs, teacher: us.Outputs, batch: us.Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns BinaryKL-Norm of the auxiliary head."""
        ours, theirs = self.answered(student, heads), teacher["logits"]
        look(self.file, heads["counter"], student, ours, theirs, batch.target)
        forms = {"released": released_binary_kl_norm, "released, masked": masked_binary_kl_norm}
        if self.form == "stable":
            return us.losses.binary_kl_norm_loss(ours, theirs, TEMPERATURE)
        return forms[self.form](ours, theirs, TEMPERATURE).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics(us.Method):
    """Changes nothing; writes down what the one head is like."""

    paper: ClassVar[str] = "our own"
    student_taps: ClassVar[tuple[str, ...]] = ("feature", "logits")
    teacher_taps: ClassVar[tuple[str, ...]] = ("logits",)
    file: str

    def heads(self, setup: us.Setup) -> nn.ModuleDict:
        """Returns what counts the steps."""
        return nn.ModuleDict({"counter": _counter()})

    def loss(self, student: us.Outputs, teacher: us.Outputs, batch: us.Batch, heads: nn.ModuleDict) -> Tensor:
        """Returns 0."""
        look(self.file, heads["counter"], student, student["logits"], teacher["logits"], batch.target)
        return student["logits"].new_zeros(())


def _counter() -> nn.Module:
    """Returns a counter of steps; it is saved with the run, so a resumed one goes on."""
    counter = nn.Module()
    counter.register_buffer("steps", torch.zeros((), dtype=torch.int64))
    return counter


def look(
    file: str, counter: nn.Module, student: us.Outputs, guided: Tensor, teacher: Tensor, target: Tensor
) -> None:
    """Writes down one step, if it is its turn or the logits are near the overflow."""
    steps = counter.get_buffer("steps")
    step = int(steps)
    shared = guided is student["logits"]
    argument = (guided if shared else guided - teacher).detach()
    if step % EVERY == 0 or not float(argument.max()) < NEAR:  # which NaN is not, either
        line = statistics(student["feature"], student["logits"], guided, teacher, target)
        append_line(Path(file), json.dumps({"step": step, **line}))
    steps += 1


def statistics(
    feature: Tensor, logits: Tensor, guided: Tensor, teacher: Tensor, target: Tensor
) -> dict[str, float | bool | None]:
    """Returns what one batch says of a student whose ``logits`` the labels teach, and ``guided`` the teacher.

    They are one tensor where the losses share a head: then the teacher's loss is BinaryKL, else BinaryKL-Norm.

    Returns:
        ``finite``, and unless it is False: ``argument``, the largest number whose sigmoid the loss takes, times the
        temperature; ``ones``, the share of these sigmoids that are 1 in float32; ``released_is_finite``;
        ``label_gradient`` and ``teacher_gradient``, the mean norms of an image's gradients of cross-entropy and of
        the teacher's loss with respect to the logits, before any weight; ``classifier``, the cosine between the two
        losses' gradients of the one classifier (``None`` for two heads); ``feature``, that between their gradients
        of the feature; ``accuracy``, and ``top_class``, the share of the class that is predicted most.
    """
    z, g, t = logits.detach().float(), guided.detach().float(), teacher.detach().float()
    if not (z.isfinite().all() and g.isfinite().all()):
        return {"finite": False}
    shared = guided is logits
    released = released_binary_kl if shared else released_binary_kl_norm
    argument = g if shared else g - t
    label = z.softmax(dim=1) - F.one_hot(target, z.shape[1])
    if shared:
        guide = TEMPERATURE * (torch.sigmoid(g / TEMPERATURE) - torch.sigmoid(t / TEMPERATURE))
    else:
        guide = TEMPERATURE * (torch.sigmoid(argument / TEMPERATURE) - 0.5)
    h = feature.detach().float()
    (label_feature,) = torch.autograd.grad(logits, feature, label.to(logits.dtype), retain_graph=True)
    (guide_feature,) = torch.autograd.grad(guided, feature, guide.to(guided.dtype), retain_graph=True)
    predicted = z.argmax(dim=1)
    return {
        "finite": True,
        "argument": float(argument.max()),
        "teacher_largest_logit": float(t.abs().max()),
        "ones": float((torch.sigmoid(argument / TEMPERATURE) == 1).float().mean()),
        "released_is_finite": bool(released(g, t, TEMPERATURE).mean().isfinite()),
        "label_gradient": float(label.norm(dim=1).mean()),
        "teacher_gradient": float(guide.norm(dim=1).mean()),
        "classifier": _cosine(label.T @ h, guide.T @ h) if shared else None,
        "feature": _cosine(label_feature, guide_feature),
        "accuracy": float((predicted == target).float().mean()),
        "top_class": float(predicted.bincount(minlength=z.shape[1]).max() / len(z)),
    }


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


CE = {"name": "ce"}
FORMS: dict[str, dict[str, Any]] = {
    "stable": {"name": "binary_kl"},
    "released": {"name": "__main__:ReleasedBinaryKL"},
    "released, masked": {"name": "__main__:ReleasedBinaryKL", "masked": True},
}
ONE_HEAD: dict[str, list[dict[str, Any]]] = {
    "ce": [CE],
    **{f"binary_kl, {form}": [term] for form, term in FORMS.items()},
    "64 binary_kl, stable": [{**FORMS["stable"], "weight": 64.0}],
    **{
        f"ce + {weight:g} binary_kl, {form}": [CE, {**term, "weight": weight}]
        for weight in (1.0, 0.1, 6.4, 64.0)
        for form, term in FORMS.items()
    },
}
TWO_HEADS: dict[str, tuple[str, bool]] = {
    **{f"dhkd, {form}": (form, False) for form in FORMS},
    "dhkd, stable, aligned": ("stable", True),
}
"""The form of the loss, and whether the gradients are aligned as the released code does."""
ARMS = [*ONE_HEAD, *TWO_HEADS]


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    scale: float
    seed: int
    lr: float
    arm: str


def cases(options: argparse.Namespace, arms: Iterable[str]) -> list[Case]:
    """Returns all runs of some arms."""
    return [
        Case(scale, seed, lr, arm)
        for scale in options.scale
        for seed in options.seeds
        for lr in options.lr
        for arm in arms
    ]


def again(options: argparse.Namespace) -> list[Case]:
    """Returns the runs of a table, and sets the options that name them."""
    table = read_json(Path(options.again))
    chosen = [_key(run) for run in table["runs"]]
    options.epochs = table["epochs"]
    for name, field in {"scale": "scale", "seeds": "seed", "lr": "lr"}.items():
        setattr(options, name, list(dict.fromkeys(getattr(case, field) for case in chosen)))
    return chosen


def scaled_teacher(options: argparse.Namespace, scale: float) -> str:
    """Returns the path of the teacher's weights, the classifier's multiplied; it is written if it is not there."""
    if scale == 1:
        return options.teacher
    path = Path(options.out) / f"teacher-{scale:g}.safetensors"
    if not path.exists():
        with safe_open(options.teacher, framework="pt") as file:
            state, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        (classifier,) = (name.removesuffix("weight") for name, tensor in state.items() if tensor.dim() == 2)
        for name in ("weight", "bias"):
            state[classifier + name] = state[classifier + name] * scale
        save_file(state, path, about)
    return str(path)


def config(options: argparse.Namespace, case: Case) -> dict[str, Any]:
    """Returns the config of one run: the budget of the paper, or a share of it."""
    scale, seed, lr, arm = case.scale, case.seed, case.lr, case.arm
    folder = Path(options.out) / f"{arm.replace(', ', '-').replace(' ', '_')}" / f"lr-{lr:g}" / f"seed-{seed}"
    if scale != 1:
        folder = folder.with_name(f"{folder.name}-scale-{scale:g}")
    milestones = sorted({max(1, round(options.epochs * m / 240)) for m in (150, 180, 210)})
    file = str(_looks(folder))
    align = "none"
    if arm in ONE_HEAD:
        losses = [*ONE_HEAD[arm], {"name": "__main__:Statistics", "file": file}]
    else:
        published = preset("dhkd", "cifar100", options.teacher_model, options.student_model)
        dhkd = next(term for term in published.losses if term["name"] == "dhkd")
        form, aligned = TWO_HEADS[arm]
        losses = [CE, {**dhkd, "name": "__main__:ObservedDHKD", "form": form, "file": file}]
        align = published.align if aligned else "none"
    return {
        "seed": seed,
        "data": {"name": "parquet", "train": options.train, "test": options.test, "val": 0.1, "seed": 0},
        "teacher": {
            "model": options.teacher_model,
            "weights": scaled_teacher(options, scale),
            "tables": str(Path(options.out) / "tables"),  # all runs see the same views
        },
        "student": {"model": options.student_model},
        "losses": losses,
        "gradients": {"align": align},
        "train": {
            "epochs": options.epochs,
            "batch_size": 64,
            "optimizer": {"name": "sgd", "lr": case.lr, "momentum": 0.9, "weight_decay": 5.0e-4},
            "schedule": {"name": "multistep", "milestones": milestones, "gamma": 0.1},
            "divergence": {
                "policy": "stop",
                "explosion": None,
                "collapse_epochs": None,
            },  # NaN alone ends a run
        },
        "output": str(folder),
    }


def line_of(job: dict[str, Any]) -> dict[str, Any] | None:
    """Returns one run's line of the table, ``None`` if it has not ended."""
    result = outcome(load_config(job))
    if result is None:
        return None
    folder = Path(job["output"])
    looks = read_json_lines(_looks(folder))
    latest = {line["step"]: line for line in looks}  # a resumed run looks twice at some steps
    seen = [latest[step] for step in sorted(latest) if latest[step]["finite"]]
    regular = [line for line in seen if line["step"] % EVERY == 0]
    overflows = [line["step"] for line in seen if not line["released_is_finite"]]
    curve = [line["val/acc1"] for line in read_json_lines(folder / "metrics.jsonl") if "val/acc1" in line]
    return {
        "status": result["status"],
        "message": result.get("message"),
        "seconds": result.get("seconds"),
        "test/acc1": result["last"].get("test/acc1"),
        "val/acc1": curve,
        "argument": max(line["argument"] for line in seen),
        "teacher_largest_logit": max(line["teacher_largest_logit"] for line in seen),
        "ones": max(line["ones"] for line in seen),
        "first_overflow": overflows[0] if overflows else None,
        "released_not_finite": sum(not line["released_is_finite"] for line in regular) / len(regular),
        "last_finite_step": seen[-1]["step"],
        "label_gradient": _middle(line["label_gradient"] for line in regular),
        "teacher_gradient": _middle(line["teacher_gradient"] for line in regular),
        "classifier": _opposed(regular, "classifier"),
        "feature": _opposed(regular, "feature"),
        "top_class": seen[-1]["top_class"],
    }


def _looks(folder: Path) -> Path:
    """Returns the file of what was seen of a run."""
    return folder.with_name(f"{folder.name}.looks.jsonl")


def _opposed(looks: list[dict[str, Any]], place: str) -> dict[str, float] | None:
    """Returns how often two gradients oppose each other, and their median cosine."""
    cosines = [line[place] for line in looks]
    if None in cosines:
        return None
    return {"opposed": sum(c < 0 for c in cosines) / len(cosines), "cosine": _middle(cosines)}


def _middle(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def write_up(folder: Path, options: argparse.Namespace) -> None:
    """Writes the table of all runs that are there."""
    runs = []
    for case in cases(options, ARMS):
        found = line_of(config(options, case))
        if found is not None:
            runs.append({**asdict(case), **found})
    if options.beside:
        there = {_key(run) for run in runs}
        runs += [run for run in _elsewhere(options) if _key(run) not in there]
    runs.sort(
        key=lambda run: (run["scale"], _rank(options.lr, run["lr"]), run["seed"], ARMS.index(run["arm"]))
    )
    write_json(folder / "table.json", {"epochs": options.epochs, "runs": runs})
    heads = [
        "arm",
        "teacher ×",
        "lr",
        "seed",
        "test top-1",
        "largest argument",
        "largest teacher logit",
        "released form not finite",
    ]
    heads += [
        "median ‖∂CE/∂z‖",
        "median ‖∂teacher/∂z‖",
        "opposed in the classifier",
        "in the feature",
        "ended",
    ]
    lines = [heads, ["---"] * len(heads)]
    for run in runs:
        score = "–" if run["test/acc1"] is None else f"{run['test/acc1']:.2f}"
        first = run["first_overflow"]
        if first is None:
            overflow = "never"
        elif run["status"] == "finished":
            overflow = f"{100 * run['released_not_finite']:.1f}%, from step {first} on"
        else:
            overflow = f"yes, at step {first}"
        gradients = [f"{run['label_gradient']:.3f}", f"{run['teacher_gradient']:.3f}"]
        opposed = ["–" if run[p] is None else _words(run[p]) for p in ("classifier", "feature")]
        ended = "after the last epoch" if run["status"] == "finished" else run["message"].partition(". ")[0]
        numbers = [f"{run['scale']:g}", f"{run['lr']:g}", str(run["seed"])]
        cells = [
            run["arm"],
            *numbers,
            score,
            f"{run['argument']:.1f}"
            if run["argument"] < 1e4
            else f"{run['argument']:.0e}".replace("e+", "e"),
            f"{run['teacher_largest_logit']:.1f}",
            overflow,
        ]
        lines.append([*cells, *gradients, *opposed, ended])
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    write_text(
        folder / "table.md",
        f"{options.teacher_model} → {options.student_model}, {options.epochs} epochs of the paper's 240, batch 64. "
        f"Shares and medians are of every {EVERY}th step, gradients are those before any weight. The argument is "
        "the logit whose sigmoid BinaryKL takes, or for dhkd the gap of logits; the released form overflows from "
        f"34 on. Opposed: share of steps with a negative cosine, and the median cosine.\n\n{table}\n",
    )


def _key(run: dict[str, Any]) -> Case:
    return Case(run["scale"], run["seed"], run["lr"], run["arm"])


def _elsewhere(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the lines of a table that was made of other folders, on the same budget."""
    table = read_json(Path(options.beside))
    if table["epochs"] != options.epochs:
        raise SystemExit(f"--beside must be of {options.epochs} epochs, got {table['epochs']}")
    return table["runs"]


def _rank(order: Sequence[float], value: float) -> float:
    """Returns the place of a value in an order, those it does not name last."""
    return order.index(value) if value in order else len(order) + value


def _words(place: dict[str, float]) -> str:
    return f"{100 * place['opposed']:.0f}%, cosine {place['cosine']:.2f}"


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
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0])
    parser.add_argument("--table", action="store_true", help="run nothing, write the table of what is there")
    parser.add_argument(
        "--beside", help="a table.json of other folders, whose runs are put into the table, too"
    )
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument(
        "--again", help="make the runs of this table.json; --epochs, --seeds, --lr, --scale follow"
    )
    options = parser.parse_args()
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    todo = again(options) if options.again else cases(options, options.arms)
    if options.table:
        todo = []
    for case in todo:
        job = config(options, case)
        if outcome(load_config(job)) is not None:
            continue
        try:
            us.distill(job, runs=len(todo))
        except ValueError as error:  # NaN: that is an answer, too
            if outcome(load_config(job)) is None:
                raise
            print(f"{case}: {error}")
        write_up(folder, options)
    write_up(folder, options)


if __name__ == "__main__":
    main()
