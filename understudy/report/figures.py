"""Numbers -> inline SVG whose colours the page's style sheet decides.

Matplotlib draws; no text from files goes through it (a name may hold a ``$`` or a glyph its fonts lack):
names stand in the HTML legend, and the dot plot's are put into the finished SVG.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from understudy.files import write_atomic

WIDTH, HEIGHT = 4.6, 3.0
"""Inches, of 72 units each: at full width on a phone and in a third of a wide page, text keeps its size."""
NUM_COLOURS = 6
DASHES = ((None, None), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
"""On-off lengths in line widths: lines differ in more than colour."""
LARGEST = 1e30
"""Greater magnitudes count as infinite: axis arithmetic would overflow."""
REFERENCE = -1
"""``series`` of a line to compare with, drawn thin and grey; lower ones differ in dash."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a figure."""

    ink: str
    grid: str
    reference: str
    series: tuple[str, ...]


STAND_IN = Palette("#010101", "#020202", "#030303", tuple(f"#0a000{i}" for i in range(NUM_COLOURS)))
"""Colours that stand in for the style sheet's variables while Matplotlib draws for the page."""
PRINT = Palette(
    "#545b66", "#dcdfe4", "#545b66", ("#0b5cad", "#c04a00", "#00735a", "#97398a", "#735a00", "#4a5260")
)
"""The style sheet's light colours, for figures as files."""
VARIABLES = {
    STAND_IN.ink: "var(--muted)",
    STAND_IN.grid: "var(--rule)",
    STAND_IN.reference: "var(--muted)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(STAND_IN.series)},
}


def look_of(palette: Palette) -> dict[str, Any]:
    """Returns Matplotlib's settings for figures in these colours."""
    return {
        "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
        "svg.hashsalt": "understudy",  # the same page for the same files
        "font.size": 11,
        "text.color": palette.ink,
        "text.parse_math": False,
        "axes.edgecolor": palette.grid,
        "axes.labelcolor": palette.ink,
        "xtick.color": palette.ink,
        "ytick.color": palette.ink,
        "grid.color": palette.grid,
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
        return VARIABLES[_colour(self.series, STAND_IN)]

    @property
    def is_point(self) -> bool:
        """Whether the legend should show a dot."""
        return sum(map(drawable, self.y)) == 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dot plot: a name and a labelled value a dot."""

    name: str
    series: int
    dots: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of an interval plot: a difference, half the width of its interval (if it has one), both in words."""

    name: str
    series: int
    mean: float
    half_width: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished figure with its title, its legend and the SVG."""

    key: str
    """Unique on the page; name of the figure's files."""
    title: str
    svg: Markup
    draw: Callable[[Palette], Figure]
    """Draws the figure anew, for a file."""
    legend: tuple[Line, ...] = ()
    chart: str = ""
    """JSON of the points and of where the axes lie in the SVG, for values under the pointer; or empty."""


def line_figure(
    key: str, title: str, lines: Iterable[Line], *, logarithmic: bool = False, named: bool = False
) -> Picture | None:
    """Returns lines over epochs, ``None`` if there is no finite point.

    Args:
        key: unique on the page; prefix of the identifiers in the SVG.
        title: what the vertical axis shows, with the unit.
        lines: what to draw; those without a finite point are left out.
        logarithmic: draw the vertical axis so (and say so in the title) if all values are positive and span
            more than 1:50.
        named: give a single line a legend, too.
    """
    shown = tuple(line for line in lines if any(map(drawable, line.y)))
    if not shown:
        return None
    values = [value for line in shown for value in line.y if value is not None and drawable(value)]
    logarithmic = logarithmic and min(values) > 0 and max(values) > 50 * min(values)
    decades = math.log10(max(values)) - math.log10(min(values)) if logarithmic else 0.0
    title = f"{title} (logarithmic)" if logarithmic else title
    draw = partial(_plot_lines, shown, decades)
    figure = draw(STAND_IN)
    svg = to_svg(figure, key, f"{title}, by epoch. " + " ".join(map(_in_words, shown)))
    return Picture(key, title, svg, draw, shown if named or len(shown) > 1 else (), chart(figure, shown))


def dot_figure(key: str, title: str, rows: Sequence[Row]) -> Picture | None:
    """Returns one lane a row with a dot a value and a bar at the mean, ``None`` if there is no finite value.

    Args:
        key: unique on the page; prefix of the identifiers in the SVG.
        title: what the horizontal axis shows, with the unit.
        rows: from top to bottom.
    """
    kept = [Row(row.name, row.series, [dot for dot in row.dots if drawable(dot[1])]) for row in rows]
    kept = [row for row in kept if row.dots]
    if not kept:
        return None
    texts, hints, words = {}, {}, []
    for i, row in enumerate(kept):
        texts[f"name-{i}"] = _short(row.name)
        words.append(f"{row.name}: mean {_mean(row):.2f} of {len(row.dots)}.")
        hints.update({f"dot-{i}-{j}": f"{label}: {value:.2f}" for j, (label, value) in enumerate(row.dots)})
    draw = partial(_plot_dots, kept)
    svg = to_svg(draw(STAND_IN), key, f"{title}. " + " ".join(words), texts, hints)
    return Picture(key, title, svg, draw)


def interval_figure(key: str, title: str, rows: Sequence[Interval]) -> Picture | None:
    """Returns one lane a row with a difference and its interval around a line at 0, ``None`` without a row.

    Args:
        key: unique on the page; prefix of the identifiers in the SVG.
        title: what the horizontal axis shows, with the unit.
        rows: from top to bottom.
    """
    kept = [row for row in rows if drawable(row.mean) and drawable(row.half_width or 0.0)]
    if not kept:
        return None
    texts = {f"name-{i}": _short(row.name) for i, row in enumerate(kept)}
    words = [f"{row.name}: {row.text}." for row in kept]
    hints = {f"dot-{i}-0": f"{row.name}: {row.text}" for i, row in enumerate(kept)}
    draw = partial(_plot_intervals, kept)
    svg = to_svg(draw(STAND_IN), key, f"{title}. " + " ".join(words), texts, hints)
    return Picture(key, title, svg, draw)


def save(picture: Picture, folder: Path) -> None:
    """Writes a figure as ``KEY.svg`` and ``KEY.png`` (220 dots an inch), with its title and legend, on white."""
    with style.context(["default", look_of(PRINT)]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name may hold a glyph that the font lacks
        figure = picture.draw(PRINT)
        figure.patch.set_visible(True)
        (axes,) = figure.axes
        axes.set_title(picture.title, loc="left", color="#1c1f24")
        if picture.legend:
            numbers = [str(i) for i in range(len(picture.legend))]
            legend = axes.legend(
                axes.lines, numbers, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False
            )
            for text, line in zip(legend.get_texts(), picture.legend, strict=True):
                text.set_text(line.name)  # set so, a name may begin with an underscore
        for kind in ("svg", "png"):
            file = io.BytesIO()
            about = {"Date": None} if kind == "svg" else {}
            figure.savefig(file, format=kind, dpi=220, bbox_inches="tight", metadata=about)
            content = file.getvalue()
            write_atomic(folder / f"{picture.key}.{kind}", lambda out, content=content: out.write(content))


def _plot_lines(lines: Sequence[Line], decades: float, palette: Palette) -> Figure:
    with style.context(["default", look_of(palette)]):
        figure, axes = _axes(HEIGHT, left=0.62, bottom=0.5, top=0.12)
        for line in lines:
            _draw_line(axes, line, palette)
        _scale(axes, decades, [x for line in lines for x in line.x])
        axes.set_xlabel("epoch")
    return figure


def _plot_dots(rows: Sequence[Row], palette: Palette) -> Figure:
    with style.context(["default", look_of(palette)]):
        figure, axes = _lanes(len(rows))
        for i, row in enumerate(rows):
            _draw_lane(axes, i, row, _mean(row), palette)
    return figure


def _plot_intervals(rows: Sequence[Interval], palette: Palette) -> Figure:
    with style.context(["default", look_of(palette)]):
        figure, axes = _lanes(len(rows))
        axes.axvline(0.0, color=palette.reference, linewidth=1.2)
        for i, row in enumerate(rows):
            colour = _colour(row.series, palette)
            if row.half_width is not None:
                ends = [row.mean - row.half_width, row.mean + row.half_width]
                axes.plot(ends, [i, i], color=colour, linewidth=2.5, solid_capstyle="butt")
            axes.plot([row.mean], [i], "o", color=colour, markersize=8, markeredgewidth=0, gid=f"dot-{i}-0")
            _write_lane(axes, i, row.name, row.text, palette)
    return figure


def _lanes(count: int) -> tuple[Figure, Axes]:
    """Returns an empty plot with one horizontal lane a row."""
    figure, axes = _axes(0.35 + 0.58 * count, left=0.12, bottom=0.3, top=0.05)
    axes.set_ylim(count - 0.45, -0.7)
    axes.yaxis.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    axes.margins(x=0.06)
    axes.grid(axis="x")
    return figure, axes


def _write_lane(axes: Axes, position: int, name: str, value: str, palette: Palette) -> None:
    """Writes the name of a lane on its left and a value on its right; in the page's SVG the name is put in later."""
    name = "name" if palette is STAND_IN else _short(name)
    along = axes.get_yaxis_transform()  # x in shares of the width, y in rows
    axes.text(0, position - 0.42, name, transform=along, va="center", gid=f"name-{position}")
    axes.text(1, position - 0.42, value, transform=along, va="center", ha="right")


def _short(name: str) -> str:
    return name if len(name) <= 36 else name[:35] + "…"


def _mean(row: Row) -> float:
    return sum(value for _, value in row.dots) / len(row.dots)


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one colour that the page's script says under the pointer."""

    name: str
    colour: str
    """As the style sheet has it."""
    x: Sequence[float]
    y: Sequence[float | None]


def chart(
    figure: Figure, series: Iterable[Line | Series], *, axis: str = "epoch", names: Sequence[str] = ()
) -> str:
    """Returns what the page's script needs to say the values at a place of the horizontal axis, as JSON.

    Args:
        figure: of one plot, as it was drawn.
        series: what it shows.
        axis: what the horizontal axis is, in a word or two.
        names: of the places 0, 1, 2 ..., if they have some.
    """
    (axes,) = figure.axes
    box, (width, height) = axes.get_position(), figure.get_size_inches() * 72  # SVG units are points
    low, high = axes.get_xlim()
    return json.dumps(
        {
            "left": round(box.x0 * width, 2),
            "right": round(box.x1 * width, 2),
            "top": round((1 - box.y1) * height, 2),
            "bottom": round((1 - box.y0) * height, 2),
            "low": low,
            "high": high,
            "axis": axis,
            "names": list(names),
            "lines": [
                {
                    "name": line.name,
                    "colour": line.colour,
                    "points": [
                        [int(x) if float(x).is_integer() else float(x), float(f"{y:.6g}")]
                        for x, y in zip(line.x, line.y, strict=True)
                        if y is not None and drawable(x) and drawable(y)
                    ],
                }
                for line in series
            ],
        },
        ensure_ascii=False,
    )


def drawable(value: float | None) -> bool:
    """Returns whether a value is there and has a place on an axis."""
    return value is not None and math.isfinite(value) and abs(value) < LARGEST


def gaps(values: Sequence[float | None]) -> list[float]:
    """Returns the values with NaN, where Matplotlib breaks a line, for all that cannot be drawn."""
    return [value if value is not None and drawable(value) else math.nan for value in values]


def _colour(series: int, palette: Palette) -> str:
    return palette.series[series % NUM_COLOURS] if series >= 0 else palette.reference


def tick(value: float, _position: int | None = None) -> str:
    """Returns the number of a tick."""
    return f"{value:g}".replace("-", "−")


def _in_words(line: Line) -> str:
    """Returns where a line starts and ends, for those who cannot see it."""
    values = [value for value in line.y if value is not None and drawable(value)]
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


def _draw_line(axes: Axes, line: Line, palette: Palette) -> None:
    y = gaps(line.y)
    few = sum(map(math.isfinite, y)) <= 15
    pattern = DASHES[line.series % len(DASHES)]
    (drawn,) = axes.plot(
        line.x, y, color=_colour(line.series, palette), linewidth=1.8 if line.series >= 0 else 1.2
    )
    if pattern[0] is not None:
        drawn.set_dashes([length for length in pattern if length is not None])
    if line.is_point:
        drawn.set(marker="D", markersize=7)
    elif few and line.series >= 0:
        drawn.set(marker="o", markersize=4)
    if line.low and line.high:
        axes.fill_between(
            line.x,
            gaps(line.low),
            gaps(line.high),
            color=_colour(line.series, palette),
            alpha=0.15,
            linewidth=0,
        )


def _scale(axes: Axes, decades: float, x: Sequence[float]) -> None:
    """Sets both scales and their ticks; the vertical one is logarithmic if ``decades`` is above 0."""
    if decades > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 3.0), numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    if min(x) == max(x):
        axes.set_xlim(min(x) - 1, max(x) + 1)
    axes.grid(axis="y")


def _draw_lane(axes: Axes, position: int, row: Row, mean: float, palette: Palette) -> None:
    """Draws one row of a dot plot; the text and every dot carry identifiers that :func:`to_svg` looks for."""
    spread = 0.07  # dots of nearly the same value stay apart
    for j, (_, value) in enumerate(row.dots):
        y = position + spread * (j % 3 - 1) * (len(row.dots) > 1)
        axes.plot(
            [value], [y], "o", color=_colour(row.series, palette), markersize=7, alpha=0.75, markeredgewidth=0,
            gid=f"dot-{position}-{j}",
        )  # fmt: skip
    axes.plot(
        [mean, mean], [position - 0.22, position + 0.22], color=_colour(row.series, palette), linewidth=2.5
    )
    _write_lane(axes, position, row.name, f"mean {mean:.2f}", palette)


def to_svg(
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
    with style.context(["default", look_of(STAND_IN)]):
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
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, variable)
    return value
