"""Numbers -> inline SVG whose colours the page's style sheet decides.

Matplotlib draws; no text from files goes through it (a name may hold a ``$`` or a glyph its fonts lack):
names stand in the HTML legend, and the dot plot's are put into the finished SVG.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

WIDTH, HEIGHT = 4.6, 3.0
"""Inches, of 72 units each: at full width on a phone and in a third of a wide page, text keeps its size."""
NUM_COLOURS = 6
DASHES = ((None, None), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
"""On-off lengths in line widths: lines differ in more than colour."""
LARGEST = 1e30
"""Greater magnitudes count as infinite: axis arithmetic would overflow."""
REFERENCE = -1
"""``series`` of a line to compare with, drawn thin and grey; lower ones differ in dash."""

_INK, _GRID, _REFERENCE = "#010101", "#020202", "#030303"
_COLOURS = tuple(f"#0a000{i}" for i in range(NUM_COLOURS))
_VARIABLES = {
    _INK: "var(--muted)",
    _GRID: "var(--rule)",
    _REFERENCE: "var(--muted)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(_COLOURS)},
}
"""Colours that stand in for the style sheet's variables while Matplotlib draws."""

_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "understudy",  # the same page for the same files
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a name for the legend, points (``None``, NaN and infinities are gaps), an optional band."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    series: int
    """Which colour and dash; :data:`REFERENCE` and below for grey."""
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()

    @property
    def dash(self) -> str:
        """The dash pattern as SVG writes it, for the legend."""
        pattern = DASHES[self.series % len(DASHES)]
        return "none" if pattern[0] is None else " ".join(f"{2 * length:g}" for length in pattern if length)

    @property
    def colour(self) -> str:
        """The style sheet's variable of this line's colour."""
        return _VARIABLES[_colour(self.series)]

    @property
    def is_point(self) -> bool:
        """Whether the legend should show a dot."""
        return sum(map(_drawable, self.y)) == 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dot plot: a name and a labelled value a dot."""

    name: str
    series: int
    dots: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished figure with its title, its legend and the SVG."""

    title: str
    svg: Markup
    legend: tuple[Line, ...] = ()


def line_figure(key: str, title: str, lines: Iterable[Line], *, logarithmic: bool = False) -> Picture | None:
    """Returns lines over epochs, ``None`` if there is no finite point.

    Args:
        key: unique on the page; prefix of the identifiers in the SVG.
        title: what the vertical axis shows, with the unit.
        lines: what to draw; those without a finite point are left out.
        logarithmic: draw the vertical axis so (and say so in the title) if all values are positive and span
            more than 1:50.
    """
    shown = tuple(line for line in lines if any(map(_drawable, line.y)))
    if not shown:
        return None
    values = [value for line in shown for value in line.y if value is not None and _drawable(value)]
    logarithmic = logarithmic and min(values) > 0 and max(values) > 50 * min(values)
    decades = math.log10(max(values)) - math.log10(min(values)) if logarithmic else 0.0
    title = f"{title} (logarithmic)" if logarithmic else title
    with style.context(["default", _STYLE]):
        figure, axes = _axes(HEIGHT, left=0.62, bottom=0.5, top=0.12)
        for line in shown:
            _draw_line(axes, line)
        _scale(axes, decades, [x for line in shown for x in line.x])
        axes.set_xlabel("epoch")
        svg = _svg(figure, key, f"{title}, by epoch. " + " ".join(map(_in_words, shown)))
    return Picture(title, svg, shown)


def dot_figure(key: str, title: str, rows: Sequence[Row]) -> Picture | None:
    """Returns one lane a row with a dot a value and a bar at the mean, ``None`` if there is no finite value.

    Args:
        key: unique on the page; prefix of the identifiers in the SVG.
        title: what the horizontal axis shows, with the unit.
        rows: from top to bottom.
    """
    kept = [Row(row.name, row.series, [dot for dot in row.dots if _drawable(dot[1])]) for row in rows]
    kept = [row for row in kept if row.dots]
    if not kept:
        return None
    texts, hints, words = {}, {}, []
    with style.context(["default", _STYLE]):
        figure, axes = _axes(0.35 + 0.58 * len(kept), left=0.12, bottom=0.3, top=0.05)
        for i, row in enumerate(kept):
            mean = sum(value for _, value in row.dots) / len(row.dots)
            texts[f"name-{i}"] = row.name if len(row.name) <= 36 else row.name[:35] + "…"
            words.append(f"{row.name}: mean {mean:.2f} of {len(row.dots)}.")
            hints.update(
                {f"dot-{i}-{j}": f"{label}: {value:.2f}" for j, (label, value) in enumerate(row.dots)}
            )
            _draw_lane(axes, i, row, mean)
        axes.set_ylim(len(kept) - 0.45, -0.7)
        axes.yaxis.set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.margins(x=0.06)
        axes.grid(axis="x")
        svg = _svg(figure, key, f"{title}. " + " ".join(words), texts, hints)
    return Picture(title, svg)


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and abs(value) < LARGEST


def _gaps(values: Sequence[float | None]) -> list[float]:
    """Returns the values with NaN, where Matplotlib breaks a line, for all that cannot be drawn."""
    return [value if value is not None and _drawable(value) else math.nan for value in values]


def _colour(series: int) -> str:
    return _COLOURS[series % NUM_COLOURS] if series >= 0 else _REFERENCE


def _tick(value: float, _position: int | None = None) -> str:
    return f"{value:g}".replace("-", "−")


def _in_words(line: Line) -> str:
    """Returns where a line starts and ends, for those who cannot see it."""
    values = [value for value in line.y if value is not None and _drawable(value)]
    if len(values) == 1:
        return f"{line.name}: {values[0]:.4g}."
    return f"{line.name}: from {values[0]:.4g} to {values[-1]:.4g}."


def _axes(height: float, left: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    """Returns a transparent figure with one frameless plot; margins in inches."""
    figure = Figure(figsize=(WIDTH, height))
    figure.patch.set_visible(False)
    box = (left / WIDTH, bottom / height, 1 - (left + 0.12) / WIDTH, 1 - (bottom + top) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    return figure, axes


def _draw_line(axes: Axes, line: Line) -> None:
    y = _gaps(line.y)
    few = sum(map(math.isfinite, y)) <= 15
    pattern = DASHES[line.series % len(DASHES)]
    (drawn,) = axes.plot(line.x, y, color=_colour(line.series), linewidth=1.8 if line.series >= 0 else 1.2)
    if pattern[0] is not None:
        drawn.set_dashes([length for length in pattern if length is not None])
    if line.is_point:
        drawn.set(marker="D", markersize=7)
    elif few and line.series >= 0:
        drawn.set(marker="o", markersize=4)
    if line.low and line.high:
        axes.fill_between(
            line.x, _gaps(line.low), _gaps(line.high), color=_colour(line.series), alpha=0.15, linewidth=0
        )


def _scale(axes: Axes, decades: float, x: Sequence[float]) -> None:
    """Sets both scales and their ticks; the vertical one is logarithmic if ``decades`` is above 0."""
    if decades > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 3.0), numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    if min(x) == max(x):
        axes.set_xlim(min(x) - 1, max(x) + 1)
    axes.grid(axis="y")


def _draw_lane(axes: Axes, position: int, row: Row, mean: float) -> None:
    """Draws one row of a dot plot; the text and every dot carry identifiers that :func:`_svg` looks for."""
    spread = 0.07  # dots of nearly the same value stay apart
    for j, (_, value) in enumerate(row.dots):
        y = position + spread * (j % 3 - 1) * (len(row.dots) > 1)
        axes.plot(
            [value], [y], "o", color=_colour(row.series), markersize=7, alpha=0.75, markeredgewidth=0,
            gid=f"dot-{position}-{j}",
        )  # fmt: skip
    axes.plot([mean, mean], [position - 0.22, position + 0.22], color=_colour(row.series), linewidth=2.5)
    along = axes.get_yaxis_transform()  # x in shares of the width, y in rows
    axes.text(0, position - 0.42, "name", transform=along, va="center", gid=f"name-{position}")
    axes.text(1, position - 0.42, f"mean {mean:.2f}", transform=along, va="center", ha="right")


def _svg(
    figure: Figure,
    key: str,
    label: str,
    texts: Mapping[str, str] | None = None,
    hints: Mapping[str, str] | None = None,
) -> Markup:
    """Returns the figure as SVG to stand inside HTML.

    Namespaces and fixed sizes go (HTML needs neither), identifiers get a prefix so that several figures fit
    on one page, stand-in colours become variables of the style sheet.

    Args:
        figure: what to draw.
        key: the prefix.
        label: what the picture shows, for screen readers.
        texts: identifier of a text -> what it must say.
        hints: identifier of a mark -> what to say when the pointer rests on it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    for definitions in root.findall("defs[style]"):  # a style sheet that would reach the whole page
        root.remove(definitions)
    for element in list(root.iter()):
        name = element.get("id", "")
        if texts and name in texts:
            next(element.iter("text")).text = texts[name]
        if hints and name in hints:
            hint = ElementTree.Element("title")
            hint.text = hints[name]
            element.insert(0, hint)
        element.attrib = {k.rpartition("}")[2]: _rewrite(v, k, key) for k, v in element.attrib.items()}
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    # Escaped by the serialiser: markup in names cannot get out
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _rewrite(value: str, attribute: str, key: str) -> str:
    """Returns an attribute's value with prefixed identifiers and the style sheet's colours."""
    if attribute == "id":
        return f"{key}-{value}"
    if value.startswith("#"):
        return f"#{key}-{value[1:]}"
    value = value.replace("url(#", f"url(#{key}-")
    for colour, variable in _VARIABLES.items():
        value = value.replace(colour, variable)
    return value
