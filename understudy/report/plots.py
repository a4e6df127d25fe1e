"""Figures of the analyses: described as data, drawn once for a page (its colours) and once as files (their own).

As in :mod:`understudy.report.figures` no text from files goes through Matplotlib on a page: names of classes and terms
stand in the HTML legend. In the files, which have no HTML, :func:`plain` keeps names that any font can draw.
"""

from __future__ import annotations

import colorsys
import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias

import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from understudy.report.figures import (
    DASHES,
    PRINT,
    STAND_IN,
    VARIABLES,
    WIDTH,
    Series,
    chart,
    drawable,
    gaps,
    look_of,
    tick,
    to_svg,
)

MOST_POINTS = 2000
"""A cloud of more points than this is thinned out evenly: more cannot be told apart."""
MOST_NAMED = 12
"""Up to this many classes have a legend."""
UPRIGHT, TURNED, ALL = 48, 8, 12
"""Under an axis there is room for so many letters side by side, and for so many names turned. Up to so many bars all
have their names; of more, every second, third ... has."""
HEAT = "viridis"

_FIXED = {
    STAND_IN.ink: PRINT.ink,
    STAND_IN.grid: PRINT.grid,
    **dict(zip(STAND_IN.series, PRINT.series, strict=True)),
}
"""Stand-in colour -> the colour in files: those of the page's light theme."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points in the order of x; ``None`` and NaN are gaps."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Curves:
    """Lines in one plot; those of a single point are drawn as marks."""

    name: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    diagonal: bool = False
    """Whether x = y is drawn for comparison."""
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars in groups: a group a category, a bar a series."""

    name: str
    title: str
    y_label: str
    categories: tuple[str, ...]
    series: tuple[tuple[str, Sequence[float | None]], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """Points in a plane, coloured by class."""

    name: str
    title: str
    points: NDArray[np.float64]
    """``(N, 2)``."""
    labels: NDArray[np.int64]
    """``(N,)`` class numbers."""
    classes: tuple[str, ...]
    centres: NDArray[np.float64] | None = None
    """``(C, 2)``, drawn as stars; rows of NaN are left out."""
    axes: bool = False
    """Whether the coordinates mean something (ticks are drawn, and the origin)."""


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """A matrix as colours."""

    name: str
    title: str
    matrix: NDArray[np.float64]
    x_label: str
    y_label: str
    highest: float | None = None
    """Value of the last colour, so that several matrices compare; by default the matrix's own largest."""


Plot: TypeAlias = Curves | Bars | Cloud | Heat


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of an HTML legend."""

    name: str
    colour: str
    dash: str = "none"
    is_point: bool = False


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure for a page: its title, its legend and the SVG."""

    title: str
    svg: Markup
    legend: tuple[Entry, ...] = ()
    chart: str = ""
    """Values to show under the pointer, as the page's other figures have them; of lines and bars."""


def inline(plot: Plot, key: str) -> Drawn:
    """Returns a figure to stand inside HTML, in the colours of the page's style sheet.

    Args:
        plot: what to draw.
        key: unique on the page; prefix of the identifiers in the SVG.
    """
    with style.context(["default", look_of(STAND_IN)]):
        figure, axes = _figure(plot)
        _draw(axes, plot)
        said = _said(figure, plot)
        svg = to_svg(figure, key, f"{plot.title}. {_in_words(plot)}")
    legend = tuple(
        Entry(name, VARIABLES.get(colour, colour), dash, point)
        for name, colour, dash, point in _entries(plot)
    )
    return Drawn(plot.title, svg, legend, said)


def _said(figure: Figure, plot: Plot) -> str:
    """Returns the values to show under the pointer."""
    values = () if isinstance(plot, Cloud | Heat) else _values(plot)
    if isinstance(plot, Cloud | Heat) or not any(drawable(value) for value in values):
        return ""
    colours = cycle(VARIABLES[colour] for colour in STAND_IN.series)
    if isinstance(plot, Curves):
        lines = [Series(c.name, colour, c.x, c.y) for c, colour in zip(plot.curves, colours, strict=False)]
        return chart(figure, lines, axis=plot.x_label)
    places = range(len(plot.categories))
    bars = [Series(name, colour, places, y) for (name, y), colour in zip(plot.series, colours, strict=False)]
    return chart(figure, bars, names=plot.categories)


def files(plot: Plot, dpi: int = 110) -> tuple[bytes, bytes]:
    """Returns a figure as SVG and as PNG on white, with its legend; the same bytes for the same plot.

    Args:
        plot: what to draw.
        dpi: of the PNG.
    """
    with style.context(["default", look_of(STAND_IN)]):
        entries = list(_entries(plot))
        columns = 4 if max((len(e[0]) for e in entries), default=0) < 14 else 2
        rows = -(-len(entries) // columns) if len(entries) > 1 else 0
        figure, axes = _figure(plot, title=True, below=0.1 + 0.2 * rows)
        _draw(axes, plot)
        if rows:
            _legend(axes, plot, entries, columns)
        for artist in figure.findobj(lambda a: hasattr(a, "get_color") or hasattr(a, "get_edgecolor")):
            _recolour(artist)
        figure.patch.set(visible=True, facecolor="white")
        vector, pixels = io.BytesIO(), io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(vector, format="svg", metadata=nothing, dpi=dpi)
        figure.savefig(pixels, format="png", metadata={"Software": None}, dpi=dpi)
    return vector.getvalue(), pixels.getvalue()


def _values(plot: Curves | Bars) -> list[float | None]:
    """Returns all numbers of a plot, drawable or not."""
    parts = [curve.y for curve in plot.curves] if isinstance(plot, Curves) else [y for _, y in plot.series]
    return [value for part in parts for value in part]


def _in_words(plot: Plot) -> str:
    """Returns what a figure shows, for those who cannot see it; names are escaped where it is used."""
    if isinstance(plot, Cloud):
        return f"{len(plot.points)} points of {len(plot.classes)} classes."
    if isinstance(plot, Heat):
        return f"Mean {np.nanmean(plot.matrix):.4g}, largest {np.nanmax(plot.matrix):.4g}."
    lines = [(c.name, c.y) for c in plot.curves] if isinstance(plot, Curves) else list(plot.series)
    words = []
    for name, values in lines:
        drawn = [value for value in values if value is not None and drawable(value)]
        if drawn:
            ends = (drawn[0], drawn[-1]) if isinstance(plot, Curves) else (min(drawn), max(drawn))
            words.append(f"{name}: from {ends[0]:.4g} to {ends[1]:.4g}.")
    return " ".join(words)


def plain(name: str, instead: str) -> str:
    """Returns a name that any font draws as it is written, or what stands ``instead`` of it.

    Example:
        >>> from understudy.report.plots import plain
        >>> plain("cat", "class 0"), plain("$x^2$", "class 1"), plain("🐈", "class 2")
        ('cat', 'class 1', 'class 2')
    """
    latin_or_greek = all(ord(c) < 0x250 or 0x370 <= ord(c) < 0x400 for c in name)
    safe = latin_or_greek and name.isprintable() and "$" not in name and 0 < len(name.strip()) <= 28
    return name if safe and not name.startswith("_") else instead


def class_colour(number: int, count: int) -> str:
    """Returns the colour of a class: hues evenly apart, of a lightness that is seen on white and on black."""
    lightness = (0.5, 0.4, 0.6)[number % 3] if count > 6 else 0.47
    return to_hex(colorsys.hls_to_rgb(number / max(count, 1), lightness, 0.7))


def _figure(plot: Plot, title: bool = False, below: float = 0.0) -> tuple[Figure, Axes]:
    """Returns an empty figure with room ``below`` the axes' names, in inches, and its axes."""
    square = isinstance(plot, Cloud | Heat)
    height = (3.9 if square else 3.0) + below
    lines = textwrap.wrap(plot.title, 50) if title else []
    height += 0.2 * max(len(lines) - 1, 0)
    top, bottom = (0.22 + 0.2 * len(lines) if title else 0.12), 0.52 + below
    left, right = (0.78, 0.12) if not isinstance(plot, Heat) else (0.62, 0.9)
    if isinstance(plot, Bars) and _written(names := _ticks(plot))[1]:
        longest = max(map(len, names))
        bottom += 0.035 * longest
        left = max(left, 0.06 * longest)
        height += 0.035 * longest
    figure = Figure(figsize=(WIDTH, height))
    figure.patch.set_visible(False)
    axes = figure.add_axes(
        (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (bottom + top) / height)
    )
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    if title:
        figure.text(0.02, 1 - 0.1 / height, "\n".join(lines), color=STAND_IN.ink, va="top", parse_math=False)
    return figure, axes


def _draw(axes: Axes, plot: Plot) -> None:
    if isinstance(plot, Curves):
        _draw_curves(axes, plot)
    elif isinstance(plot, Bars):
        _draw_bars(axes, plot)
    elif isinstance(plot, Cloud):
        _draw_cloud(axes, plot)
    else:
        _draw_heat(axes, plot)


def _draw_curves(axes: Axes, plot: Curves) -> None:
    if plot.diagonal:
        axes.plot([0, 1], [0, 1], color=STAND_IN.grid, linewidth=1.2)
    for i, curve in enumerate(plot.curves):
        (drawn,) = axes.plot(
            curve.x, gaps(curve.y), color=STAND_IN.series[i % len(STAND_IN.series)], linewidth=1.8
        )
        if (pattern := DASHES[i % len(DASHES)])[0] is not None:
            drawn.set_dashes([length for length in pattern if length is not None])
        if len(curve.x) <= 15:
            drawn.set(marker="D" if len(curve.x) == 1 else "o", markersize=7 if len(curve.x) == 1 else 4)
    values = [value for value in _values(plot) if value is not None and drawable(value)]
    if plot.logarithmic and values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(MaxNLocator(1))
        axes.minorticks_off()
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.grid(axis="y")


def _draw_bars(axes: Axes, plot: Bars) -> None:
    width = 0.8 / max(len(plot.series), 1)
    for i, (_, values) in enumerate(plot.series):
        places = [c + (i - (len(plot.series) - 1) / 2) * width for c in range(len(plot.categories))]
        axes.bar(places, gaps(values), width * 0.92, color=STAND_IN.series[i % len(STAND_IN.series)])
    names = _ticks(plot)
    step, turned = _written(names)
    axes.set_xticks(
        range(0, len(names), step),
        names[::step],
        rotation=30 if turned else 0,
        ha="right" if turned else "center",
    )
    axes.axhline(0, color=STAND_IN.grid, linewidth=1)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_ylabel(plot.y_label)
    axes.grid(axis="y")


def _short(value: float, _position: int | None = None) -> str:
    """Returns a tick's number; thousands and millions by their letter, so that it fits."""
    for unit, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return tick(value / (1e3 if letter == "k" else 1e6)) + letter
    return tick(value)


def _ticks(plot: Bars) -> list[str]:
    return [plain(name, str(c)) for c, name in enumerate(plot.categories)]


def _written(names: Sequence[str]) -> tuple[int, bool]:
    """Returns that every so-manieth name is written, and whether turned, since they are too long side by side."""
    longest = max(map(len, names), default=UPRIGHT)
    if len(names) * longest <= UPRIGHT or len(names) <= ALL:
        return 1, len(names) * longest > UPRIGHT
    room = UPRIGHT // (longest + 2)
    most, turned = (room, False) if room > TURNED // 2 else (TURNED, True)
    return -(-len(names) // most), turned


def _draw_cloud(axes: Axes, plot: Cloud) -> None:
    kept = np.arange(0, len(plot.points), -(-len(plot.points) // MOST_POINTS) or 1)
    points, labels = plot.points[kept], plot.labels[kept]
    for c in range(len(plot.classes)):
        own = points[labels == c]
        if len(own):
            colour = class_colour(c, len(plot.classes))
            axes.plot(own[:, 0], own[:, 1], "o", color=colour, markersize=3.2, markeredgewidth=0, alpha=0.75)
    if plot.centres is not None:
        for c, (x, y) in enumerate(plot.centres):
            if math.isfinite(x + y):
                colour = class_colour(c, len(plot.classes))
                axes.plot(
                    [x],
                    [y],
                    "*",
                    color=colour,
                    markersize=13,
                    markeredgecolor=STAND_IN.ink,
                    markeredgewidth=0.8,
                )
    axes.set_aspect("equal", adjustable="datalim")
    if plot.axes:
        axes.plot([0], [0], "+", color=STAND_IN.ink, markersize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(FuncFormatter(_short))
        axes.grid()
    else:
        axes.set(xticks=[], yticks=[])
        axes.spines["bottom"].set_visible(False)


def _draw_heat(axes: Axes, plot: Heat) -> None:
    highest = float(np.nanmax(plot.matrix)) if plot.highest is None else plot.highest
    image = axes.imshow(plot.matrix, cmap=HEAT, vmin=0, vmax=highest or 1.0, interpolation="nearest")
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    axes.spines["bottom"].set_visible(False)
    box = axes.get_position()
    scale = axes.figure.add_axes((box.x1 + 0.03, box.y0, 0.03, box.height))
    axes.figure.colorbar(image, cax=scale)
    scale.tick_params(length=0)
    scale.yaxis.set_major_formatter(FuncFormatter(_short))
    for spine in scale.spines.values():
        spine.set_visible(False)


def _entries(plot: Plot) -> Iterator[tuple[str, str, str, bool]]:
    """Yields name, colour, dash and whether it is a mark, for the legend; nothing where one is not needed."""
    if isinstance(plot, Curves):
        for i, curve in enumerate(plot.curves):
            pattern = DASHES[i % len(DASHES)]
            dash = "none" if pattern[0] is None else " ".join(f"{2 * n:g}" for n in pattern if n)
            yield curve.name, STAND_IN.series[i % len(STAND_IN.series)], dash, len(curve.x) == 1
    elif isinstance(plot, Bars):
        for i, (name, _) in enumerate(plot.series):
            yield name, STAND_IN.series[i % len(STAND_IN.series)], "none", True
    elif isinstance(plot, Cloud) and len(plot.classes) <= MOST_NAMED:
        for c, name in enumerate(plot.classes):
            yield name, class_colour(c, len(plot.classes)), "none", True


def _legend(axes: Axes, plot: Plot, entries: Sequence[tuple[str, str, str, bool]], columns: int) -> None:
    handles = []
    for i, (name, colour, _, point) in enumerate(entries):
        (handle,) = axes.plot([], [], "D" if point else "-", color=colour, label=plain(name, f"no. {i}"))
        if isinstance(plot, Curves) and not point and (pattern := DASHES[i % len(DASHES)])[0] is not None:
            handle.set_dashes([length for length in pattern if length is not None])
        handles.append(handle)
    axes.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=axes.figure.transFigure,
        ncols=min(len(handles), columns),
        fontsize=9,
        frameon=False,
        labelcolor=STAND_IN.ink,
    )


def _recolour(artist: object) -> None:
    """Replaces the stand-in colours of one artist."""
    for what in ("color", "markerfacecolor", "markeredgecolor", "edgecolor", "facecolor"):
        read, write = getattr(artist, f"get_{what}", None), getattr(artist, f"set_{what}", None)
        if read is None or write is None:
            continue
        value = read()
        if isinstance(value, str):
            found = _FIXED.get(value)
        else:
            flat = np.asarray(value, dtype=np.float64).reshape(-1)
            found = _FIXED.get(to_hex((flat[0], flat[1], flat[2]))) if len(flat) in (3, 4) else None
        if found is not None:
            write(found)
