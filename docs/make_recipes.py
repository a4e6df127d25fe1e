"""Writes the table of docs/recipes.md from the package's recipes.

python docs/make_recipes.py            # write
python docs/make_recipes.py --check    # exit 1 if the file is stale
"""

from __future__ import annotations

import argparse
from pathlib import Path

from understudy.recipes import find_recipe, recipe_names
from understudy.recipes.overview import IMAGES, recipe_table

PAGE = Path(__file__).with_name("recipes.md")
HEADING = "## All recipes\n"
LEFT_OUT = """## Printed cells without an arm

Everything else that can be read in the papers' tables has one, but for the recipes above that cannot be run.

| recipe | cells | why |
|---|---|---|"""


def table() -> str:
    """Returns the section of all recipes."""
    lines = [
        HEADING,
        f"*{IMAGES[0].upper()}{IMAGES[1:]}*",
        "",
        "| recipe | what | rows | images | needs |",
        "|---|---|---|---|---|",
    ]
    for line in recipe_table():
        what = f"cannot be run: {line.refusal}" if line.refusal else line.needs
        about = line.title.partition(": ")[2]
        lines.append(f"| `{line.name}` | {about} | {line.rows} | {line.images} | {what} |")
    lines += ["", LEFT_OUT]
    recipes = [find_recipe(name)[0] for name in recipe_names()]
    lines += [
        f"| `{recipe.name}` | {name} | {reason} |"
        for recipe in recipes
        for name, reason in recipe.table.left_out.items()
    ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Returns the whole file: what is written by hand, and the table."""
    text = PAGE.read_text("utf-8")
    return text[: text.index(HEADING)] + table()


def main() -> None:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if page() != PAGE.read_text("utf-8"):
            raise SystemExit("docs/recipes.md is stale. Run: python docs/make_recipes.py")
    else:
        PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
