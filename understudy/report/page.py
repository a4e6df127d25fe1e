"""Templates -> a page: one environment, everything escaped, style and script inlined."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@functools.cache
def environment() -> Environment:
    """Returns the environment of the templates in this package; every value is escaped."""
    return Environment(
        loader=PackageLoader("understudy", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, context: Mapping[str, Any]) -> str:
    """Returns a whole page.

    The page carries a content security policy that allows no address outside it and no script but ours, so
    even text that slipped through unescaped could neither run nor phone home.

    Args:
        template: ``"run.html"`` or ``"study.html"``.
        context: what :func:`~understudy.report.run_page.run_context` or its sibling for studies returned.
    """
    script = _text("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment().get_template(template).render(
        context, style=Markup(_text("style.css")), script=Markup(script), script_digest=digest
    )  # fmt: skip


def _text(name: str) -> str:
    return (resources.files("understudy.report") / name).read_text(encoding="utf-8")
