"""Draws the report's figures: each as a PNG for papers and as an SVG that follows the page's theme.

Knows matplotlib (object API, no global state) and lines of numbers; knows no run and no HTML page.
Which charts there are is `report_charts`. Inside the SVG each colour of the palette becomes a CSS
variable of the page (`--ink`, `--run-0`, ...), so one drawing is readable in light and dark. The
PNG has a white ground.

Text that fits into a drawing: names cut to a width and still told apart, brief numbers.

Knows how wide matplotlib's own font is; nothing of charts.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
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
from asymrl.report.arms import Line
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
MARKERS = ("o", "s", "^", "D")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--run-{i}" for i, colour in enumerate(COLOURS)
}
WIDTH, PLOT_HEIGHT, LEGEND_ROW = 4.4, 2.1, 0.172  # inches
LEFT, RIGHT, TOP, BOTTOM = 0.55, 0.12, 0.55, 0.5
MANY = 6  # lines; above it raw ones and bands are fainter and legend entries shorter
ROOMS = (66, 120, 275)  # points for a legend entry in three columns, in two, in one
TITLE_ROOM = 300  # points
LONGEST_TICK = 7  # characters that fit between the figure's edge and its y axis
MOST_POINTS = 400  # of a line in a drawing: more than a screen shows of it
STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@frozen
class Chart:
    """Lines over x, one an arm (None: it has none), and how to say what they are.

    Charts of one `scale` share a y range; a fraction's stays within 0 and 1. dots: points are
    measured ones, marked, with bars for their spread; else it is a band. looks: the numbers of the
    arms, which their colours go by, where these are not all arms.
    """

    name: str
    title: str
    unit: str
    caption: str
    names: Sequence[str]
    lines: Sequence[Line | None]
    looks: Sequence[int] = ()
    x_label: str = "step"
    fraction: bool = False
    zero: bool = False
    dots: bool = False
    scale: str = ""


@frozen
class Drawing:
    """A finished figure. alt: what it shows, in words; missing: arms without data in it."""

    name: str
    caption: str
    alt: str
    missing: Sequence[str]
    svg: str
    png: bytes


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def draw(chart: Chart, limits: tuple[float, float]) -> Drawing:
    """One chart. 7 colours and 5 dashes share no factor: 35 arms look different from each other."""
    handles: list[Line2D] = []
    shown = [(i, line) for i, line in enumerate(chart.lines) if line]
    looks = chart.looks or range(len(chart.lines))
    entries = entries_of([chart.names[i] for i, _ in shown], ROOMS[1 + (len(shown) <= MANY)])
    figure, axes = _canvas(chart.title, chart.unit, entries)
    if chart.zero:
        axes.axhline(0, color=MUTED, linewidth=0.8)
    for i, line in shown:
        place = looks[i]
        few = len(shown) <= MANY
        x, y, low, high, raw = _thinned(line)
        own: dict[str, Any] = {"color": colour(place), "gid": f"arm-{place}"}
        if raw:
            axes.plot(x, raw, linewidth=0.8, alpha=0.3 if few else 0.1, **own)
        if low and chart.dots:
            axes.vlines(x, low, high, linewidth=1.0, alpha=0.6, **own)
        elif low:
            axes.fill_between(x, low, high, alpha=0.16 if few else 0.07, lw=0, **own)
        mark = MARKERS[place % len(MARKERS)] if chart.dots or len(x) == 1 else None
        dash = place % len(DASHES)  # whole lines below dashed ones: of two that agree both show
        look = own | {"linestyle": DASHES[dash], "marker": mark, "zorder": 2 + dash / 10}
        handles += axes.plot(x, y, linewidth=1.8, markersize=4, markeredgewidth=0, **look)
    axes.set_ylim(*limits)
    axes.set_xlabel(chart.x_label)
    whole = chart.x_label == "step"
    if not whole:
        axes.set_xlim(-0.04, 1.04)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    _label_y(axes)
    _legend(figure, handles, entries)
    said = [_in_words(chart.names[i], line, chart.x_label) for i, line in shown]
    return _finish(
        figure,
        chart.name,
        chart.caption,
        f"{chart.title} over {chart.x_label}, {chart.unit}. " + " ".join(said),
        [name for name, line in zip(chart.names, chart.lines, strict=True) if not line],
    )


def draw_bars(
    name: str,
    title: str,
    caption: str,
    x_label: str,
    names: Sequence[str],
    parts: Sequence[Mapping[str, float]],
) -> Drawing:
    """Stacked horizontal bars, one an arm, of its parts in seconds; an arm without any is left
    out."""
    kinds = _main_kinds(parts)
    shown = [i for i, mean in enumerate(parts) if mean]
    figure, axes = _canvas(title, "a bar for each arm", kinds, 0.25 + 0.5 * len(shown))
    words = []
    for place, i in enumerate(shown):
        start = 0.0
        for k, kind in enumerate(kinds):
            rest = kind == "other"
            width = sum(v for n, v in parts[i].items() if n == kind or (rest and n not in kinds))
            look = {"color": colour(k), "edgecolor": PAPER, "linewidth": 0.8}
            axes.barh(place, width, 0.4, left=start, **look)
            start += width
        label = fitting(names[i], ROOMS[-1], size=LEGEND_SIZE)
        axes.text(0, place - 0.26, label, va="bottom", fontsize=LEGEND_SIZE)
        axes.annotate(
            f"{start:.3g} s",
            (start, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
        words.append(f"{names[i]}: {start:.3g} seconds a step.")
    axes.set_ylim(len(shown) - 0.6, -0.75)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(x_label)
    _legend(figure, [Patch(color=colour(k)) for k in range(len(kinds))], kinds)
    missing = [name for i, name in enumerate(names) if i not in shown]
    return _finish(figure, name, caption, f"{title}, stacked. " + " ".join(words), missing)


def draw_heat_map(
    name: str,
    title: str,
    unit: str,
    caption: str,
    cells: Mapping[tuple[float, float], tuple[str, float]],
) -> Drawing:
    """(beta_pos, beta_neg) -> (arm, number): beta_neg to the right, beta_pos upwards, the number in
    each cell. Cividis, which looks alike to the colour-blind, and runs from dark to light."""
    rows, columns = (sorted({at[axis] for at in cells}) for axis in (0, 1))
    numbers = [number for _, number in cells.values()]
    low, span = min(numbers), max(numbers) - min(numbers) or 1.0
    figure, axes = _canvas(title, unit, [], 0.42 * len(rows))
    for (pos, neg), (_, number) in cells.items():
        y, x, part = rows.index(pos), columns.index(neg), (number - low) / span
        shade = matplotlib.colormaps["cividis"](part)
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=shade, edgecolor=PAPER))
        ink = "#fffffe" if part < 0.47 else "#000001"  # not the page's colours: these do not turn
        size = min(9.0, 40 / len(columns))
        axes.text(x, y, f"{number:.3f}", ha="center", va="center", color=ink, fontsize=size)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xticks(range(len(columns)), [f"{beta:g}" for beta in columns])
    axes.set_yticks(range(len(rows)), [f"{beta:g}" for beta in rows])
    axes.grid(visible=False)
    axes.set_xlabel("beta_neg (no unit)")
    axes.set_ylabel("beta_pos (no unit)", labelpad=1)
    said = [f"{arm} ({p:g}, {n:g}): {number:.3f}." for (p, n), (arm, number) in cells.items()]
    alt = f"{title}, {unit}, by arm (beta_pos, beta_neg). " + " ".join(said)
    return _finish(figure, name, caption, alt, [])


def limits_of(charts: Sequence[Chart]) -> tuple[float, float]:
    """A y range around every value, raw value and spread of charts that share one."""
    edges = [
        edge
        for chart in charts
        for line in chart.lines
        if line
        for values in (line.y, line.raw, line.low, line.high)
        for edge in values
        if math.isfinite(edge)
    ]
    low, high = min(edges), max(edges)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.05
    if all(chart.fraction for chart in charts):
        return max(low - room, -0.02), min(high + room, 1.02)
    return low - room, high + room


def _label_y(axes: Axes) -> None:
    """Plain numbers; 5e-5 where those are too long to stand beside the axis."""
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    ticks = axes.get_yticks().tolist()
    short = [brief(tick) for tick in ticks]
    longest = max(map(len, axes.yaxis.get_major_formatter().format_ticks(ticks)))
    if longest > LONGEST_TICK and len(set(short)) == len(short):
        axes.yaxis.set_major_formatter(lambda tick, _: brief(tick))


def _thinned(line: Line) -> tuple[list[float], ...]:
    """x, y, low, high, raw at no more than MOST_POINTS places, the first and last among them."""
    places = range(len(line.x))
    if len(places) > MOST_POINTS:
        last = len(places) - 1
        places = [round(i * last / (MOST_POINTS - 1)) for i in range(MOST_POINTS)]
    kept = (line.x, line.y, line.low, line.high, line.raw)
    return tuple([values[i] for i in places] if values else [] for values in kept)


def _main_kinds(means: Sequence[Mapping[str, float]]) -> list[str]:
    """All of them in order of appearance; beyond the palette the shortest become `other`."""
    kinds = list(dict.fromkeys(kind for mean in means for kind in mean))
    if len(kinds) <= len(COLOURS):
        return kinds
    by_length = sorted(kinds, key=lambda kind: -max(mean.get(kind, 0.0) for mean in means))
    kept = set(by_length[: len(COLOURS) - 1]) - {"other"}
    return [kind for kind in kinds if kind in kept] + ["other"]


def _canvas(
    title: str, y_label: str, entries: Sequence[str], plot_height: float = PLOT_HEIGHT
) -> tuple[Figure, Axes]:
    """A figure with one plot and room for the legend's entries below it.

    The y label lies flat above its axis: easier to read, and no width of tick labels can push it
    off the figure.
    """
    rows = math.ceil(len(entries) / _legend_columns(entries))
    height = TOP + plot_height + BOTTOM + rows * LEGEND_ROW + 0.06
    figure = Figure(figsize=(WIDTH, height), facecolor=PAPER)
    axes = figure.add_axes(
        (
            LEFT / WIDTH,
            1 - (TOP + plot_height) / height,
            (WIDTH - LEFT - RIGHT) / WIDTH,
            plot_height / height,
        )
    )
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5)
    look: dict[str, Any] = {"weight": "bold", "size": 10}
    whole = printable(fitting(title, TITLE_ROOM, **look))
    figure.text(0.1 / WIDTH, 1 - 0.08 / height, whole, va="top", **look)
    figure.text(0.1 / WIDTH, 1 - 0.3 / height, y_label, va="top", color=MUTED, fontsize=8.5)
    return figure, axes


def _legend_columns(entries: Sequence[str]) -> int:
    widest = max((text_width(entry, size=LEGEND_SIZE) for entry in entries), default=0)
    return 3 if widest <= ROOMS[0] else 2 if widest <= ROOMS[1] else 1


def _legend(figure: Figure, handles: Sequence[Line2D | Patch], names: Sequence[str]) -> None:
    """Below the plot, so that a long name costs height and not plot."""
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


def _in_words(name: str, line: Line, x_label: str) -> str:
    ends = (0, -1) if len(line.x) > 1 else (0,)
    at = "step" if x_label == "step" else "p ="
    return f"{name}: " + ", ".join(f"{line.y[i]:.3g} at {at} {line.x[i]:g}" for i in ends) + "."


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
    """The drawing alone, in the page's colours, without ids that would clash on one page: an arm's
    become data-arm."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="arm-(\d+)"', r' data-arm="\1"', svg)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg aria-hidden="true"', 1)
    for colour_code, variable in VARIABLES.items():
        svg = re.sub(rf"(fill|stroke): {colour_code}", rf"\1: var({variable})", svg)
    return svg


LEGEND_SIZE = 8.5  # points
LONGEST = 120  # characters; more would fit into no drawing
KEPT = 8  # characters of what all names begin with: `…asym_pos0.9`


def fitting(text: str, room: float, **look: Any) -> str:
    """The text, its middle left out as far as it takes to be no wider than `room` points."""
    length = min(len(text), LONGEST)
    while length > 1 and text_width(shorten(text, length), **look) > room:
        length -= 1
    return shorten(text, length)


@cache
def text_width(text: str, **look: Any) -> float:
    """In points, in matplotlib's own font: as wide as any that a browser takes, and its box for a
    letter that it lacks as wide as a Chinese one."""
    font = FontProperties(**look)
    return text_to_path.get_text_width_height_descent(printable(text), font, False)[0]


def entries_of(names: Sequence[str], room: float) -> list[str]:
    """What a legend calls them: as much of each as fits. Where that makes two the same, what all
    begin and end with goes first, but for the last few characters before they part."""
    entries = [fitting(name, room, size=LEGEND_SIZE) for name in names]
    if len(set(entries)) == len(set(names)):
        return entries
    head = _shared(names)
    tail = _shared([name[head:][::-1] for name in names])
    head = max(0, head - KEPT)
    own = [f"{'…' * (head > 0)}{n[head : len(n) - tail]}{'…' * (tail > 0)}" for n in names]
    return [fitting(name, room, size=LEGEND_SIZE) for name in own]


def brief(given: float) -> str:
    """Three digits and a power of ten: 2.5e-5."""
    mantissa, exponent = f"{given:.2e}".split("e")
    text = f"{float(mantissa):g}e{int(exponent)}" if given else "0"
    return text.replace("-", "\N{MINUS SIGN}", 1) if given < 0 else text


def _shared(names: Sequence[str]) -> int:
    """How many characters all of them begin with."""
    together = zip(*names, strict=False)
    return next((i for i, here in enumerate(together) if len(set(here)) > 1), min(map(len, names)))
