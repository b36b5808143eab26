"""Draws the report's figures: a PNG for papers, and an SVG that follows the page's colour theme.

Uses matplotlib without its global state. Knows curves of numbers; knows nothing about runs or the
page. In the SVG each colour of the palette is a CSS variable of the page (`--ink`, `--run-0`, ...),
so that it is readable in light and dark. The PNG has a white background.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from asymrl.errors import printable, shorten
from asymrl.report.arms import Curve
from asymrl.report.runs import evenly
from asymrl.types import frozen

INK, MUTED, GRID, PAPER = "#1c2024", "#60646c", "#e0e1e6", "#ffffff"
# Okabe and Ito's palette (2008) without its yellow, which is too light for a line on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
DASHES = (
    "solid",
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.4, 1.2, 1.4)),
    (0, (4, 1.4, 1.2, 1.4, 1.2, 1.4)),
)
LEVEL_DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--run-{i}" for i, colour in enumerate(COLOURS)
}
WIDTH, PLOT_HEIGHT, LEGEND_ROW = 4.4, 2.1, 0.172  # inches
MARGINS = {"left": 0.55, "right": 0.12, "top": 0.55, "bottom": 0.5}  # inches
MANY_CURVES = 6  # with more, raw values and bands are fainter and legend entries shorter
ENTRY_WIDTHS = (66, 120, 275)  # points for a legend entry in three columns, in two, in one
TITLE_WIDTH = 300  # points
LEGEND_SIZE = 8.5  # points
MAX_TICK = 7  # characters that fit between the figure's edge and its y axis
MAX_POINTS = 400  # per curve: more than a screen shows
MAX_NAME = 120  # characters: more than fits into any drawing
PREFIX_TAIL = 8  # characters that an entry keeps of a common prefix: `…asym_pos0.9`
STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """The style of all figures, as a context or a decorator. Silences the warning about characters
    that matplotlib's font lacks: a browser finds them in another font."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


@frozen
class Chart:
    """Curves over x, and the words that describe them.

    labels: of all arms. curves: index of an arm, which chooses its colour, dashes and marker ->
    its curve, None without data. Charts with the same `scale` share a y range. fraction: the range
    stays within 0 and 1. zero: a line at y = 0. dots: the points are measurements, drawn with
    markers and with bars for their spread instead of a band. levels: horizontal lines, (name, y).
    """

    name: str
    title: str
    unit: str
    caption: str
    labels: Sequence[str]
    curves: Mapping[int, Curve | None]
    x_label: str = "step"
    fraction: bool = False
    zero: bool = False
    dots: bool = False
    scale: str = ""
    levels: Sequence[tuple[str, float]] = ()


@frozen
class Drawing:
    """A finished figure. alt: what it shows, in words; missing: the arms without data."""

    name: str
    caption: str
    alt: str
    missing: Sequence[str]
    svg: str
    png: bytes


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


@figure_style()
def draw(chart: Chart, limits: tuple[float, float]) -> Drawing:
    """One chart. 7 colours and 5 dash patterns share no factor, so 35 arms look different."""
    handles: list[Line2D] = []
    shown = {look: curve for look, curve in chart.curves.items() if curve}
    few = len(shown) <= MANY_CURVES
    entries = legend_entries([chart.labels[look] for look in shown], ENTRY_WIDTHS[1 + few])
    entries += [f"{name} {y:.2f}" for name, y in chart.levels]
    figure, axes = _canvas(chart.title, chart.unit, entries)
    if chart.zero:
        axes.axhline(0, color=MUTED, linewidth=0.8)
    for look, curve in shown.items():
        x, y, low, high, raw = _thinned(curve)
        common: dict[str, Any] = {"color": colour(look), "gid": f"arm-{look}"}
        if raw:
            axes.plot(x, raw, linewidth=0.8, alpha=0.3 if few else 0.1, **common)
        if low and chart.dots:
            axes.vlines(x, low, high, linewidth=1.0, alpha=0.6, **common)
        elif low:
            axes.fill_between(x, low, high, alpha=0.16 if few else 0.07, lw=0, **common)
        marker = MARKERS[look % len(MARKERS)] if chart.dots or len(x) == 1 else None
        dash = look % len(DASHES)  # solid lines below dashed ones, so that equal curves both show
        common |= {"linestyle": DASHES[dash], "marker": marker, "zorder": 2 + dash / 10}
        handles += axes.plot(x, y, linewidth=1.8, markersize=4, markeredgewidth=0, **common)
    for dash, (_, y) in zip(cycle(LEVEL_DASHES), chart.levels, strict=False):
        handles.append(axes.axhline(y, color=MUTED, linewidth=1.0, linestyle=dash, zorder=1.5))
    axes.set_ylim(*limits)
    axes.set_xlabel(chart.x_label)
    by_step = chart.x_label == "step"
    if not by_step:
        axes.set_xlim(-0.04, 1.04)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=by_step, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    _label_y(axes)
    _legend(figure, handles, entries)
    words = [_in_words(chart.labels[look], c, chart.x_label) for look, c in shown.items()]
    words += [f"{name}: {y:.3g}." for name, y in chart.levels]
    return _finish(
        figure,
        chart.name,
        chart.caption,
        f"{chart.title} over {chart.x_label}, {chart.unit}. " + " ".join(words),
        [chart.labels[look] for look in chart.curves if look not in shown],
    )


@figure_style()
def draw_bars(
    name: str,
    title: str,
    caption: str,
    x_label: str,
    names: Sequence[str],
    parts: Sequence[Mapping[str, float]],
) -> Drawing:
    """Stacked horizontal bars: one per arm that has parts, each a name and its seconds."""
    kinds = _main_kinds(parts)
    shown = [i for i, mean in enumerate(parts) if mean]
    figure, axes = _canvas(title, "one bar per arm", kinds, 0.25 + 0.5 * len(shown))
    words = []
    for place, i in enumerate(shown):
        total = 0.0
        for k, kind in enumerate(kinds):
            rest = kind == "other"
            width = sum(v for n, v in parts[i].items() if n == kind or (rest and n not in kinds))
            look = {"color": colour(k), "edgecolor": PAPER, "linewidth": 0.8}
            bar = axes.barh(place, width, 0.4, left=total, **look)
            total += width
            if k == len(kinds) - 1:
                axes.bar_label(bar, [f"{total:.3g} s"], padding=4, fontsize=8.5)
        label = fitting(names[i], ENTRY_WIDTHS[-1], size=LEGEND_SIZE)
        axes.text(0, place - 0.26, label, va="bottom", fontsize=LEGEND_SIZE)
        words.append(f"{names[i]}: {total:.3g} seconds per step.")
    axes.set_ylim(len(shown) - 0.6, -0.75)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(x_label)
    _legend(figure, [Patch(color=colour(k)) for k in range(len(kinds))], kinds)
    missing = [name for i, name in enumerate(names) if i not in shown]
    return _finish(figure, name, caption, f"{title}, stacked. " + " ".join(words), missing)


@figure_style()
def draw_heat_map(
    name: str,
    title: str,
    unit: str,
    caption: str,
    cells: Mapping[tuple[float, float], tuple[str, float]],
) -> Drawing:
    """(beta_pos, beta_neg) -> (arm, number): beta_neg to the right, beta_pos upwards, the number in
    each cell. The colour map cividis works for colour-blind readers and runs from dark to light."""
    rows, columns = (sorted({at[axis] for at in cells}) for axis in (0, 1))
    numbers = [number for _, number in cells.values()]
    low, span = min(numbers), max(numbers) - min(numbers) or 1.0
    figure, axes = _canvas(title, unit, [], 0.42 * len(rows))
    for (pos, neg), (_, number) in cells.items():
        y, x, part = rows.index(pos), columns.index(neg), (number - low) / span
        shade = matplotlib.colormaps["cividis"](part)
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=shade, edgecolor=PAPER))
        # Not the colours of the theme: those turn with it, and the cells do not.
        ink = "#fffffe" if part < 0.47 else "#000001"
        size = min(9.0, 40 / len(columns))
        axes.text(x, y, f"{number:.3f}", ha="center", va="center", color=ink, fontsize=size)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xticks(range(len(columns)), [f"{beta:g}" for beta in columns])
    axes.set_yticks(range(len(rows)), [f"{beta:g}" for beta in rows])
    axes.grid(visible=False)
    axes.set_xlabel("beta_neg (no unit)")
    axes.set_ylabel("beta_pos (no unit)", labelpad=1)
    words = [f"{arm} ({p:g}, {n:g}): {number:.3f}." for (p, n), (arm, number) in cells.items()]
    alt = f"{title}, {unit}, by arm (beta_pos, beta_neg). " + " ".join(words)
    return _finish(figure, name, caption, alt, [])


def limits_of(charts: Sequence[Chart]) -> tuple[float, float]:
    """A y range that holds all values, raw values and spreads of the charts."""
    edges = [
        edge
        for chart in charts
        for c in chart.curves.values()
        for edge in ((*c.y, *c.raw, *c.low, *c.high) if c else ())
    ]
    edges += [y for chart in charts for _, y in chart.levels]
    low, high = min(edges), max(edges)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.05
    if all(chart.fraction for chart in charts):
        return max(low - margin, -0.02), min(high + margin, 1.02)
    return low - margin, high + margin


def _label_y(axes: Axes) -> None:
    """Plain numbers, or 5e-5 if plain ones do not fit beside the axis."""
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    ticks = axes.get_yticks().tolist()
    short = [scientific(tick) for tick in ticks]
    longest = max(map(len, axes.yaxis.get_major_formatter().format_ticks(ticks)))
    if longest > MAX_TICK and len(set(short)) == len(short):
        axes.yaxis.set_major_formatter(lambda tick, _: scientific(tick))


def _thinned(curve: Curve) -> tuple[list[float], ...]:
    """x, y, low, high, raw at no more than MAX_POINTS places, the first and the last included."""
    places = evenly(range(len(curve.x)), MAX_POINTS)
    columns = (curve.x, curve.y, curve.low, curve.high, curve.raw)
    return tuple([values[i] for i in places] if values else [] for values in columns)


def _main_kinds(means: Sequence[Mapping[str, float]]) -> list[str]:
    """In order of appearance. If there are more kinds than colours, the shortest become `other`."""
    kinds = list(dict.fromkeys(kind for mean in means for kind in mean))
    if len(kinds) <= len(COLOURS):
        return kinds
    by_length = sorted(kinds, key=lambda kind: -max(mean.get(kind, 0.0) for mean in means))
    longest = set(by_length[: len(COLOURS) - 1]) - {"other"}
    return [kind for kind in kinds if kind in longest] + ["other"]


def _canvas(
    title: str, y_label: str, entries: Sequence[str], plot_height: float = PLOT_HEIGHT
) -> tuple[Figure, Axes]:
    """A figure with one plot, and space for the legend's entries below it.

    The y label is horizontal and above the axis: it is easier to read there, and wide tick labels
    cannot push it off the figure.
    """
    rows = math.ceil(len(entries) / _legend_columns(entries))
    left, right, top, bottom = MARGINS.values()
    height = top + plot_height + bottom + rows * LEGEND_ROW + 0.06
    figure = Figure(figsize=(WIDTH, height), facecolor=PAPER)
    axes = figure.subplots()
    figure.subplots_adjust(
        left / WIDTH, 1 - (top + plot_height) / height, 1 - right / WIDTH, 1 - top / height
    )
    axes.set_facecolor("none")
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5)
    look: dict[str, Any] = {"weight": "bold", "size": 10}
    title = printable(fitting(title, TITLE_WIDTH, **look))
    figure.text(0.1 / WIDTH, 1 - 0.08 / height, title, va="top", **look)
    figure.text(0.1 / WIDTH, 1 - 0.3 / height, y_label, va="top", color=MUTED, fontsize=8.5)
    return figure, axes


def _legend_columns(entries: Sequence[str]) -> int:
    widest = max((text_width(entry, size=LEGEND_SIZE) for entry in entries), default=0)
    return 3 if widest <= ENTRY_WIDTHS[0] else 2 if widest <= ENTRY_WIDTHS[1] else 1


def _legend(figure: Figure, handles: Sequence[Line2D | Patch], names: Sequence[str]) -> None:
    """Below the plot, so that long names make the figure taller and not the plot smaller."""
    height, columns = figure.get_figheight(), _legend_columns(names)
    rows = math.ceil(len(names) / columns)
    figure.legend(
        handles,
        [printable(name) for name in names],
        loc="upper left",
        bbox_to_anchor=(0.0, (rows * LEGEND_ROW + 0.08) / height),
        ncols=columns,
        frameon=False,
        fontsize=LEGEND_SIZE,
        handlelength=2.6,
        labelspacing=0.35,
        columnspacing=1.4,
        borderaxespad=0.3,
    )


def _in_words(name: str, curve: Curve, x_label: str) -> str:
    ends = (0, -1) if len(curve.x) > 1 else (0,)
    at = "step" if x_label == "step" else "p ="
    return f"{name}: " + ", ".join(f"{curve.y[i]:.3g} at {at} {curve.x[i]:g}" for i in ends) + "."


def _finish(figure: Figure, name: str, caption: str, alt: str, missing: Sequence[str]) -> Drawing:
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=200, pil_kwargs={"compress_level": 3})
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", facecolor="none", metadata={"Date": None})
    return Drawing(
        name=name,
        caption=caption,
        alt=alt,
        missing=missing,
        svg=_for_page(svg.getvalue()),
        png=png.getvalue(),
    )


def _for_page(svg: str) -> str:
    """The svg element in the page's colours. An arm's id becomes data-arm, and unused ids go: they
    would clash on one page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="arm-(\d+)"', r' data-arm="\1"', svg)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r' (?:width|height)="[^"]*"', "", svg, count=2)
    svg = svg.replace("<svg", '<svg aria-hidden="true"', 1)
    for colour_code, variable in VARIABLES.items():
        svg = re.sub(rf"(fill|stroke): {colour_code}", rf"\1: var({variable})", svg)
    return svg


def fitting(text: str, width: float, **look: Any) -> str:
    """The text, shortened in its middle until it is no wider than `width` points."""
    length = min(len(text), MAX_NAME)
    while length > 1 and text_width(shorten(text, length), **look) > width:
        length -= 1
    return shorten(text, length)


@cache
def text_width(text: str, **look: Any) -> float:
    """Points in matplotlib's own font, which is as wide as any that a browser uses. Its box for a
    missing character is as wide as a Chinese one."""
    font = FontProperties(**look)
    return text_to_path.get_text_width_height_descent(printable(text), font, False)[0]


def legend_entries(names: Sequence[str], width: float) -> list[str]:
    """The names, shortened to `width` points. If that makes two equal, what all names begin and end
    with is cut first, except for the last few characters of the common beginning."""
    entries = [fitting(name, width, size=LEGEND_SIZE) for name in names]
    if len(set(entries)) == len(set(names)):
        return entries
    start = _common_prefix(names)
    tail = _common_prefix([name[start:][::-1] for name in names])
    start = max(0, start - PREFIX_TAIL)
    cut = [f"{'…' * (start > 0)}{n[start : len(n) - tail]}{'…' * (tail > 0)}" for n in names]
    return [fitting(name, width, size=LEGEND_SIZE) for name in cut]


def scientific(value: float) -> str:
    """Three digits and a power of ten: 2.5e-5."""
    mantissa, exponent = f"{value:.2e}".split("e")
    text = f"{float(mantissa):g}e{int(exponent)}" if value else "0"
    return text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text


def _common_prefix(names: Sequence[str]) -> int:
    """The number of characters that all names begin with."""
    columns = zip(*names, strict=False)
    return next((i for i, c in enumerate(columns) if len(set(c)) > 1), min(map(len, names)))
