"""Figures of the analyses on a page: what is written under the axis, and what the pointer is told."""

import json
import math
import re

import numpy as np
import pytest

from understudy.report.plots import ALL, TURNED, Bars, Cloud, Curve, Curves, Heat, inline


def written(svg):
    """Returns the texts of a figure."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", str(svg))


def test_of_a_hundred_classes_as_many_names_are_written_as_fit():
    names = tuple(f"class {c}" for c in range(100))
    drawn = inline(Bars("acc", "Accuracy by class, %", "%", names, (("student", list(range(100))),)), "k")
    shown = [text for text in written(drawn.svg) if text.startswith("class ")]
    assert 5 <= len(shown) <= TURNED
    assert shown[0] == "class 0"
    numbers = inline(Bars("acc", "t", "%", tuple(map(str, range(100))), (("s", [1.0] * 100),)), "k")
    assert {"0", "9", "90"} <= set(written(numbers.svg))
    assert "95" not in written(numbers.svg)
    long = inline(
        Bars("acc", "t", "%", tuple(f"aquarium fish {c}" for c in range(100)), (("s", [1.0] * 100),)), "k"
    )
    assert 5 <= len([text for text in written(long.svg) if text.startswith("aquarium")]) <= TURNED
    twelve = tuple(f"aquarium fish {c}" for c in range(ALL))
    assert set(twelve) <= set(written(inline(Bars("a", "t", "%", twelve, (("s", [1.0] * ALL),)), "k").svg))
    few = inline(Bars("acc", "Accuracy", "%", ("cat", "dog"), (("student", [1.0, 2.0]),)), "k")
    assert {"cat", "dog"} <= set(written(few.svg))


def test_the_pointer_is_told_every_bar_by_its_name_whatever_it_is():
    names = ("<b>", "$x$", "dog")
    plot = Bars("n", "t", "y", names, (("student", [1.0, None, 3.0]), ("teacher", [4.0, 5.0, math.nan])))
    chart = json.loads(inline(plot, "k").chart)
    assert chart["names"] == list(names)
    assert [line["name"] for line in chart["lines"]] == ["student", "teacher"]
    assert [line["points"] for line in chart["lines"]] == [[[0, 1.0], [2, 3.0]], [[0, 4.0], [1, 5.0]]]
    assert len({line["colour"] for line in chart["lines"]}) == 2
    assert chart["low"] < 0 < 2 < chart["high"]
    assert chart["left"] < chart["right"]


def test_the_pointer_is_told_where_on_a_line_it_is():
    x = np.array([0.5, 1.0, math.inf])
    chart = json.loads(inline(Curves("n", "t", "share", "y", (Curve("a", x, [1, 2, 3]),)), "k").chart)
    assert (chart["axis"], chart["names"]) == ("share", [])
    assert chart["lines"][0]["points"] == [[0.5, 1.0], [1, 2.0]]


@pytest.mark.parametrize(
    "plot",
    [
        Curves("n", "t", "x", "y", (Curve("a", [0, 1], [None, math.nan]),)),
        Heat("n", "t", np.eye(3), "x", "y"),
        Cloud("n", "t", np.zeros((3, 2)), np.zeros(3, dtype=np.int64), ("a",)),
    ],
)
def test_where_there_is_nothing_to_say_the_pointer_is_told_nothing(plot):
    assert inline(plot, "k").chart == ""
