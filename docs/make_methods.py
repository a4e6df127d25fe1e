"""Writes docs/methods.md: what every method computes, costs and departs in, from the package and docs/methods.yaml.

python docs/make_methods.py            # write
python docs/make_methods.py --check    # exit 1 if the file is stale
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from annotated_types import Ge, Gt, Le, Lt

import understudy.methods.presets
from understudy.costs import BATCH_SIZE, NUM_IMAGES, Cost, PairCosts, measure
from understudy.interface import Search
from understudy.listing import as_written, seen, size_words
from understudy.methods import METHODS, Method
from understudy.methods.presets import preset

FOLDER = Path(__file__).parent
PAGE = FOLDER / "methods.md"
TEXTS: dict[str, Any] = yaml.safe_load((FOLDER / "methods.yaml").read_text("utf-8"))
PUBLISHED: dict[str, Any] = yaml.safe_load(
    Path(understudy.methods.presets.__file__).with_name("published.yaml").read_text("utf-8")
)
STUDENT, TEACHER, NUM_CLASSES = "resnet8x4", "resnet32x4", 100
COLUMNS = {
    "cifar100": "CIFAR-100, others",
    "imagenet": "ImageNet",
    "coco": "COCO",
    "segmentation": "segmentation",
}


def page(costs: PairCosts) -> str:
    """Returns the whole file."""
    parts = [TEXTS["introduction"].rstrip(), _costs(costs), _contents()]
    parts += [_section(name, costs.methods[name]) for name in METHODS]
    return "\n\n".join(parts) + "\n"


def meaning(name: str, field: str) -> str | None:
    """Returns what a setting means: the string under it in the class (or one it is of), or the text in methods.yaml."""
    kinds = [kind for kind in METHODS[name].__mro__ if issubclass(kind, Method)]
    own = next((text for kind in kinds if (text := _field_strings(kind).get(field))), None)
    return own or TEXTS["methods"][name].get("settings", {}).get(field) or TEXTS["settings"].get(field)


def _costs(costs: PairCosts) -> str:
    relative = costs.teacher_forward / costs.student_step
    return (
        "## Costs\n\n"
        f"Numbers under a method are measured on {STUDENT} under {TEACHER}, {NUM_CLASSES} classes, images of 32×32, "
        f"all settings at their defaults. `understudy list methods --student {STUDENT} --teacher {TEACHER}` prints "
        "them, for any pair. *Trains* are the parameters in the optimiser beside the student's own; *keeps* are "
        f"buffers and frozen layers, for {NUM_IMAGES:,} training images; *step* is the FLOPs of cross-entropy and the "
        "method, forward and backward, over those of cross-entropy alone. Convolutions and matrix products are "
        f"counted, two FLOPs a multiply-add, in a batch of {BATCH_SIZE}; elementwise work and decompositions are not."
        "\n\n"
        f"**Measured.** The student has {costs.student_parameters:,} parameters and its step with cross-entropy alone "
        f"takes {costs.student_step / 1e9:.2f} GFLOPs an image. Wherever the teacher is seen in a step, its forward "
        f"pass comes on top, once for all terms: {costs.teacher_forward / 1e9:.2f} GFLOPs an image, or {relative:.2f} "
        "on the scale of *step*."
    )


def _contents() -> str:
    lines = ["## The methods by kind", ""]
    for kind, about in TEXTS["kinds"].items():
        names = ", ".join(f"[{n}](#{n})" for n in METHODS if TEXTS["methods"][n]["kind"] == kind)
        lines.append(f"- **{kind}** ({about}): {names}")
    return "\n".join(lines)


def _section(name: str, cost: Cost | str) -> str:
    text, method = TEXTS["methods"][name], METHODS[name]
    student, _, teacher = seen(method).partition(" / ")
    labels = " It reads the labels." if method().uses_labels else ""
    reads = f"**Sees** of the student {_code(student)}; of the teacher {_code(teacher)}.{labels}"
    if method.replaces_classifier:
        reads += " The deployed model answers with the teacher's classifier."
    parts = [
        f"## {name}",
        f"{method.paper[:1].upper()}{method.paper[1:]}. *Kind: {text['kind']}.*",
        text["idea"],
        f"```math\n{text['formula'].rstrip()}\n```",
        text["legend"],
        reads,
        f"**Measured.** {_boxes_only() if method.needs_boxes else _cost(cost)}",
        _settings(name),
        _published(name),
        "**Where the code departs**\n\n" + "\n".join(f"- {line}" for line in text["deviations"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _code(roles: str) -> str:
    """Returns roles as code, words around them as they are."""
    return re.sub(r"[a-z_]+_(?:[\d*]|last)|feature|logits", r"`\g<0>`", roles).replace("–", "nothing")


def _boxes_only() -> str:
    return "Not for this pair, which classifies images: the method reads the boxes of objects."


def _cost(cost: Cost | str) -> str:
    if isinstance(cost, str):
        return f"Refuses the pair: {cost}."
    trains = f"{cost.parameters:,} parameters" if cost.parameters else "nothing of its own"
    keeps = f", keeps {size_words(cost.state)}" if cost.state else ""
    return f"Trains {trains}{keeps}; step {cost.step:.2f}."


def _settings(name: str) -> str:
    fields = dataclasses.fields(METHODS[name])
    if not fields:
        return "It has no settings."
    hints = typing.get_type_hints(METHODS[name], include_extras=True)
    rows = [
        f"| `{f.name}` | `{as_written(f.default)}` | {_takes(hints[f.name])} | {_searched(hints[f.name])} "
        f"| {meaning(name, f.name) or ''} |"
        for f in fields
    ]
    head = ["| setting | default | takes | `tune` looks in | meaning |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _searched(hint: Any) -> str:
    """Returns where a search looks for a field's number by default, in words."""
    search = next((part for part in typing.get_args(hint) if isinstance(part, Search)), None)
    if search is None:
        return "–"
    return f"{search.low:g} to {search.high:g}{' of the value' * search.of_value}{', log' * search.log}"


def _takes(hint: Any) -> str:
    """Returns the values a field takes, in words."""
    if hint is bool:
        return "true or false"
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Annotated:
        kind, *bounds = typing.get_args(hint)
        words = {Gt: "above {}", Ge: "{} or more", Le: "at most {}", Lt: "below {}"}
        limits = [
            words[type(b)].format(getattr(b, type(b).__name__.lower())) for b in bounds if type(b) in words
        ]
        return ("whole, " if kind is int else "") + ", ".join(limits)
    if any(typing.get_origin(part) is typing.Literal for part in typing.get_args(hint)):
        return "a number a class, `auto`, or null"
    return "models of the zoo, or `same`" if hint == tuple[str, ...] else "pairs of numbers, or null"


def _published(name: str) -> str:
    """Returns the presets that are listed here, at their first term beside cross-entropy, and names the others."""
    rows: list[str] = []
    sources: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    for title, column, pair, terms, align in _entries():
        by_name = {term["name"]: term for term in terms}
        home = next((term for term in by_name if term != "ce"), "ce")
        if name not in by_name or (name == "ce" and home != "ce"):
            continue
        if name != home:
            elsewhere[f"`{title}`"] = f"[{home}](#{home})"
            continue
        beside = [f"{n} {_weight(t.get('weight', 1.0))}" for n, t in by_name.items() if n != name]
        beside += [f"aligned: {align}"] if align != "none" else []
        cells = [f"`{title}`", COLUMNS[column], pair, _words(by_name[name]), ", ".join(beside) or "–"]
        rows.append(f"| {' | '.join(cells)} |")
        sources[title] = f"`{title}`: {PUBLISHED[title]['source']}."
    head = ["| preset | data | teacher → student | this term | beside it |", "|---|---|---|---|---|"]
    parts = ["\n".join([*head, *rows]), " ".join(sources.values())] if rows else []
    if elsewhere:
        parts.append(
            "Also in " + ", ".join(f"{title} (at {home})" for title, home in elsewhere.items()) + "."
        )
    return "\n\n".join(parts) or "No preset: nothing is published. Add the term to those of another method."


def _entries() -> Iterator[tuple[str, str, str, tuple[Mapping[str, Any], ...], str]]:
    """Yields preset, data column, pair, terms and alignment, the general settings of a column before its pairs'."""
    for title, entry in PUBLISHED.items():
        for column in (c for c in COLUMNS if c in entry):
            general = preset(title, column)
            yield title, column, "any", general.losses, general.align
            for pair in entry[column].get("pairs", ()):
                student = pair.get("student", "any")
                found = preset(title, column, pair["teacher"], student)
                yield title, column, f"{pair['teacher']} → {student}", found.losses, found.align


def _words(term: Mapping[str, Any]) -> str:
    settings = [f"{key} {_number(value)}" for key, value in term.items() if key not in ("name", "weight")]
    return ", ".join([f"weight {_weight(term.get('weight', 1.0))}", *settings])


def _weight(weight: Any) -> str:
    if not isinstance(weight, Mapping):
        return _number(weight)
    words = [_number(weight.get("value", 1.0))]
    if "warmup_epochs" in weight:
        words.append(f"(ramp {weight['warmup_epochs']} from {weight.get('warmup_start', 1)})")
    words += [
        f"{key.removesuffix('_epoch')} epoch {weight[key]}"
        for key in ("from_epoch", "until_epoch")
        if key in weight
    ]
    return " ".join(words)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _field_strings(method: type[Method]) -> dict[str, str]:
    """Returns the string under each field of a class, where there is one, in Markdown."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(method))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[field.target.id] = " ".join(text.value.split()).replace("``", "`")
    return found


def main() -> None:
    """Writes the file, or says whether it is stale."""
    parser = argparse.ArgumentParser(description="Write docs/methods.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is stale")
    check = parser.parse_args().check
    text = page(measure(STUDENT, TEACHER, NUM_CLASSES))
    if not check:
        PAGE.write_text(text, "utf-8")
        print(f"wrote {PAGE}")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != text:
        sys.exit(f"{PAGE} is stale. Run python docs/make_methods.py")


if __name__ == "__main__":
    main()
