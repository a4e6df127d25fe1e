"""Writes docs/config.md, every key of a config, from the schema in understudy/config.py.

python docs/make_config.py            # write
python docs/make_config.py --check    # exit 1 if the file is stale
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from understudy import config as schema

PAGE = Path(__file__).with_name("config.md")
HEADING = "## The whole config\n"
SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("", schema.Config),
    ("data", schema.DataConfig),
    ("data.augment", schema.AugmentConfig),
    ("data.augment.randaugment", schema.RandAugmentConfig),
    ("data.mix", schema.MixConfig),
    ("data.label_noise", schema.LabelNoiseConfig),
    ("student", schema.ModelConfig),
    ("teacher", schema.TeacherConfig),
    ("teacher.classes", schema.ClassesConfig),
    ("gradients", schema.GradientsConfig),
    ("train", schema.TrainConfig),
    ("train.optimizer", schema.OptimizerConfig),
    ("train.schedule", schema.ScheduleConfig),
    ("train.divergence", schema.DivergenceConfig),
    ("study", schema.StudyConfig),
    ("study.methods", schema.ArmConfig),
    ("tune", schema.TuneConfig),
    ("tune.space", schema.RangeConfig),
)
"""Where each part of the schema stands in a config, in the order of the page."""


def described(part: type[BaseModel]) -> dict[str, str]:
    """Returns what the docstring behind each field of a class says, in one line."""
    (tree,) = ast.parse(inspect.getsource(part)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def rows(part: type[BaseModel]) -> Iterator[str]:
    """Yields the lines of a table: key, default, meaning."""
    texts: dict[str, str] = {}
    for kind in reversed(part.__mro__[: part.__mro__.index(BaseModel)]):
        texts |= described(kind)
    for key, field in part.model_fields.items():
        default = "" if field.is_required() else f"`{written(field.default)}`"
        choices = _choices(field.annotation)
        inside = next(
            (kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)), None
        )
        text = texts.get(key) or (inside and summary(inside)) or ""
        text = (text + f" One of {choices}." * ("," in choices)).replace("``", "`").replace("|", "\\|")
        yield f"| `{key}` | {default} | {text.strip()} |"


def summary(part: type[BaseModel]) -> str:
    """Returns the first line of a class's docstring."""
    return (inspect.getdoc(part) or "").partition("\n")[0]


def written(value: Any) -> str:
    """Returns a default as YAML writes it."""
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {written(v)}" for key, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else json.dumps(value)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _choices(annotation: Any) -> str:
    """Returns the words among which a key chooses, if it does."""
    options = [option for option in get_args(annotation) if isinstance(option, str)]
    nested = [word for option in get_args(annotation) for word in get_args(option) if isinstance(word, str)]
    return ", ".join(f"`{word}`" for word in options or nested)


def tables() -> str:
    """Returns the generated part of the page."""
    lines = [HEADING]
    for path, part in SECTIONS:
        lines += [f"### `{path}`\n" if path else "### Top level\n", summary(part), ""]
        lines += ["| key | default | meaning |", "|---|---|---|", *rows(part), ""]
    return "\n".join(lines)


def page() -> str:
    """Returns the whole file: what is written by hand, and the tables."""
    text = PAGE.read_text("utf-8")
    return text[: text.index(HEADING)] + tables()


def main() -> None:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if page() != PAGE.read_text("utf-8"):
            raise SystemExit("docs/config.md is stale. Run: python docs/make_config.py")
    else:
        PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
