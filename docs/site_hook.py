"""The site's only code: formulas and cross-references, as pages and docstrings write them, in HTML without a script."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
_EVERYTHING = re.compile(r"<!-- everything in ([\w.]+) -->")
_EXPORT = re.compile(r"^from [\w.]+ import \w+ as (\w+)$", re.M)
_CLASS = re.compile(r"^class ([A-Z]\w+)\(_Strict\):", re.M)
_PAGE_BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.M | re.S)
_PAGE_INLINE = re.compile(r"\$`(.+?)`\$")
_BLOCK = re.compile(r"^( *)\.\. math::(.*?)(?=\n *\n|\Z)", re.M | re.S)
_INLINE = re.compile(r":math:`(.+?)`", re.S)
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?(?:understudy\.)?([^`]*)`")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns a page's Markdown with GitHub's formulas as MathML, which browsers draw by themselves.

    ``<!-- everything in MODULE -->`` becomes the reference of what a package exports, or of the schema's sections.
    """
    markdown = _EVERYTHING.sub(lambda found: _exported(found[1]), markdown)
    markdown = _PAGE_BLOCK.sub(lambda found: f"\n{convert(found[1], display='block')}\n", markdown)
    return _PAGE_INLINE.sub(lambda found: convert(found[1]), markdown)


def _exported(module: str) -> str:
    """Returns an entry for mkdocstrings for every name that a package exports, or for every section of the schema."""
    path = ROOT / module.replace(".", "/")
    if path.is_dir():
        names = sorted(_EXPORT.findall((path / "__init__.py").read_text("utf-8")))
    else:
        names = _CLASS.findall(path.with_suffix(".py").read_text("utf-8"))
    return "\n\n".join(f"::: {module}.{name}" for name in names)


class Docstrings(griffe.Extension):
    """Does the same to docstrings, whose notation is Sphinx's."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Rewrites the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """Returns a docstring with its formulas as MathML and its references as code."""
    block = _BLOCK.sub(
        lambda found: textwrap.indent(
            convert(" ".join(found[2].split()).rstrip(".,"), display="block"), found[1]
        ),
        docstring,
    )
    inline = _INLINE.sub(lambda found: convert(" ".join(found[1].split())), block)
    return _ROLE.sub(r"`\1`", inline)
