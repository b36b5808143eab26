"""Draws the report's figures: each as a PNG for papers and as an SVG that follows the page's theme.

Knows matplotlib (object API, no global state) and the series of runs; knows no HTML page. Inside
the SVG each colour of the palette becomes a CSS variable of the page (`--ink`, `--run-0`, ...), so
one drawing is readable in light and dark. The PNG has a white ground.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from asymrl.report_runs import Run, Series, benchmarks, phase_seconds, series
from asymrl.types import value

INK, MUTED, GRID, PAPER = "#1c2024", "#60646c", "#e0e1e6", "#ffffff"
# Okabe and Ito's palette (2008) without its yellow, which is too light for a line on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
DASHES = ("solid", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.4, 1.2, 1.4)))
MARKERS = ("o", "s", "^", "D")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--run-{i}" for i, colour in enumerate(COLOURS)
}
EMA = 0.7
WIDTH, PLOT_HEIGHT, LEGEND_ROW = 4.4, 2.1, 0.172  # inches
LEFT, RIGHT, TOP, BOTTOM = 0.55, 0.12, 0.55, 0.5
MANY = 6  # runs; above it raw lines are fainter and legend entries shorter
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


@value
class Chart:
    """A curve over steps: what to draw and how to say it. Charts of one `scale` share a y range."""

    name: str
    metric: str
    title: str
    unit: str
    caption: str
    smoothed: bool = True
    fraction: bool = False
    scale: str = ""


@value
class Drawing:
    """A finished figure. alt: what it shows, in words; missing: runs without data in it."""

    name: str
    caption: str
    alt: str
    missing: Sequence[str]
    svg: str
    png: bytes


CHARTS = (
    Chart(
        name="reward",
        metric="reward/mean",
        title="Training reward",
        unit="mean reward (fraction correct)",
        caption="Fraction of a step's rollouts that earned the reward.",
        fraction=True,
    ),
    Chart(
        name="entropy",
        metric="policy/entropy",
        title="Policy entropy",
        unit="entropy (nats a token)",
        caption="Of the generating policy, over all response tokens.",
        scale="entropy",
    ),
    Chart(
        name="entropy_positive",
        metric="policy/entropy_positive",
        title="Entropy, positive channel",
        unit="entropy (nats a token)",
        caption="Over the tokens of correct rollouts.",
        scale="entropy",
    ),
    Chart(
        name="entropy_negative",
        metric="policy/entropy_negative",
        title="Entropy, negative channel",
        unit="entropy (nats a token)",
        caption="Over the tokens of wrong rollouts.",
        scale="entropy",
    ),
    Chart(
        name="all_solved",
        metric="groups/all_solved",
        title="All-solved groups",
        unit="groups (fraction)",
        caption="Prompts of which every rollout is correct.",
        fraction=True,
        scale="solved",
    ),
    Chart(
        name="none_solved",
        metric="groups/none_solved",
        title="None-solved groups",
        unit="groups (fraction)",
        caption="Prompts of which no rollout is correct.",
        fraction=True,
        scale="solved",
    ),
    Chart(
        name="kappa",
        metric="diag/kappa",
        title="Kappa",
        unit="kappa (nats a token)",
        caption="Mean over the mixed groups, before any update, of p(1-p) log(p/(1-p)) times the "
        "mean log-prob of correct less that of wrong rollouts (the paper's Appendix E).",
    ),
)


def charts_of(runs: Sequence[Run]) -> list[Chart]:
    """CHARTS, with one chart of held-out accuracy a benchmark after the reward."""
    accuracy = [
        Chart(
            name=f"accuracy_{re.sub(r'[^A-Za-z0-9.-]', '_', benchmark)}",
            metric=f"eval/{benchmark}/avg",
            title=f"Held-out accuracy, {benchmark}",
            unit="accuracy (fraction)",
            caption="As measured, not smoothed; bars are one standard error where it was recorded.",
            smoothed=False,
            fraction=True,
        )
        for benchmark in benchmarks(runs)
    ]
    return [CHARTS[0], *accuracy, *CHARTS[1:]]


def draw_charts(runs: Sequence[Run]) -> tuple[list[Drawing], list[str]]:
    """Every figure that has data, and a note for each that has none."""
    charts = charts_of(runs)
    curves = {chart.name: [series(run, chart.metric) for run in runs] for chart in charts}
    drawings, notes = [], []
    if not benchmarks(runs):
        notes.append("No run has an evaluation, so the figure of held-out accuracy is left out.")
    with matplotlib.rc_context(STYLE):
        for chart in charts:
            if not any(curve.values for curve in curves[chart.name]):
                notes.append(f"No run has {chart.metric}: the figure is left out.")
                continue
            shared = [other.name for other in charts if chart.scale and other.scale == chart.scale]
            limits = _limits([c for name in shared or [chart.name] for c in curves[name]], chart)
            drawings.append(_draw(chart, [run.label for run in runs], curves[chart.name], limits))
        if any(phase_seconds(run, training_only=True) for run in runs):
            drawings.append(_draw_phases(runs))
        else:
            notes.append("No run has time/<phase>: the figure of phase times is left out.")
    return drawings, notes


def smooth(values: Sequence[float], keep: float = EMA) -> list[float]:
    """Moving average s_t = keep s_(t-1) + (1 - keep) x_t, s_0 = x_0 (paper: 0.7)."""
    smoothed: list[float] = []
    for here in values:
        smoothed.append(keep * smoothed[-1] + (1 - keep) * here if smoothed else here)
    return smoothed


def shortened(text: str, length: int) -> str:
    """At most `length` characters, the middle left out."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _draw(
    chart: Chart, names: Sequence[str], curves: Sequence[Series], limits: tuple[float, float]
) -> Drawing:
    """One chart. 7 colours and 4 dashes share no factor: 28 runs look different from each other."""
    handles: list[Line2D] = []
    shown = [i for i, curve in enumerate(curves) if curve.values]
    entries = [shortened(names[i], 44 if len(shown) <= MANY else 20) for i in shown]
    figure, axes = _canvas(chart.title, chart.unit, entries)
    if chart.metric == "diag/kappa":
        axes.axhline(0, color=MUTED, linewidth=0.8)
    for i in shown:
        curve, look = curves[i], {"color": colour(i), "linestyle": DASHES[i % len(DASHES)]}
        alone = len(curve.values) == 1
        mark = MARKERS[i % len(MARKERS)] if alone or not chart.smoothed else None
        if chart.smoothed and not alone:
            faint = 0.3 if len(shown) <= MANY else 0.1
            axes.plot(curve.steps, curve.values, color=colour(i), linewidth=0.8, alpha=faint)
        if curve.errors:
            low = [v - e for v, e in zip(curve.values, curve.errors, strict=True)]
            high = [v + e for v, e in zip(curve.values, curve.errors, strict=True)]
            axes.vlines(curve.steps, low, high, color=colour(i), linewidth=1.0, alpha=0.6)
        line = smooth(curve.values) if chart.smoothed else curve.values
        handles += axes.plot(
            curve.steps, line, linewidth=1.8, marker=mark, markersize=4, markeredgewidth=0, **look
        )
    axes.set_ylim(*limits)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    _legend(figure, handles, entries)
    said = [_in_words(names[i], curves[i]) for i in shown]
    return _finish(
        figure,
        chart.name,
        chart.caption,
        f"{chart.title} by step, {chart.unit}. " + " ".join(said),
        [name for i, name in enumerate(names) if i not in shown],
    )


def _draw_phases(runs: Sequence[Run]) -> Drawing:
    """Stacked bars: mean seconds of each phase over the training steps, one bar a run."""
    means = []
    for run in runs:
        num_steps = sum(row["step"] > 0 for row in run.rows)
        spent = phase_seconds(run, training_only=True)
        means.append({phase: seconds / num_steps for phase, seconds in spent.items()})
    phases = _main_phases(means)
    shown = [i for i, mean in enumerate(means) if mean]
    figure, axes = _canvas("Phase times", "a bar for each run", phases, 0.25 + 0.5 * len(shown))
    words = []
    for place, i in enumerate(shown):
        start = 0.0
        for k, phase in enumerate(phases):
            named = {phase: means[i].get(phase, 0.0)}
            if phase == "other":
                named = {p: s for p, s in means[i].items() if p not in phases[:-1]}
            width = sum(named.values())
            look = {"color": colour(k), "edgecolor": PAPER, "linewidth": 0.8}
            axes.barh(place, width, 0.4, left=start, **look)
            start += width
        axes.text(0, place - 0.26, shortened(runs[i].label, 44), va="bottom", fontsize=8.5)
        axes.annotate(
            f"{start:.3g} s",
            (start, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
        words.append(f"{runs[i].label}: {start:.3g} seconds a step.")
    axes.set_ylim(len(shown) - 0.6, -0.75)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("time (seconds a step, mean)")
    _legend(figure, [Patch(color=colour(k)) for k in range(len(phases))], phases)
    return _finish(
        figure,
        "phase_times",
        "Mean over the training steps; what runs on an interval is spread over them.",
        "Phase times, stacked. " + " ".join(words),
        [run.label for i, run in enumerate(runs) if i not in shown],
    )


def _main_phases(means: Sequence[dict[str, float]]) -> list[str]:
    """All phases in order of appearance; beyond the palette the shortest become `other`."""
    phases = list(dict.fromkeys(phase for mean in means for phase in mean))
    if len(phases) <= len(COLOURS):
        return phases
    by_length = sorted(phases, key=lambda phase: -max(mean.get(phase, 0.0) for mean in means))
    kept = set(by_length[: len(COLOURS) - 1]) - {"other"}
    return [phase for phase in phases if phase in kept] + ["other"]


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
    figure.text(0.1 / WIDTH, 1 - 0.08 / height, title, va="top", weight="bold", fontsize=10)
    figure.text(0.1 / WIDTH, 1 - 0.3 / height, y_label, va="top", color=MUTED, fontsize=8.5)
    return figure, axes


def _legend_columns(entries: Sequence[str]) -> int:
    longest = max(len(entry) for entry in entries)
    return 3 if longest <= 12 else 2 if longest <= 20 else 1


def _legend(figure: Figure, handles: Sequence[Line2D | Patch], names: Sequence[str]) -> None:
    """Below the plot, so that a long name costs height and not plot."""
    height, columns = figure.get_figheight(), _legend_columns(names)
    rows = math.ceil(len(names) / columns)
    figure.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(0.0, (rows * LEGEND_ROW + 0.08) / height),
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        handlelength=2.6,
        labelspacing=0.35,
        columnspacing=1.4,
        borderaxespad=0.3,
    )


def _limits(curves: Sequence[Series], chart: Chart) -> tuple[float, float]:
    """A y range around every raw value and error bar; a fraction's stays within 0 and 1."""
    edges: list[float] = []
    for curve in curves:
        for middle, error in zip_longest(curve.values, curve.errors, fillvalue=0.0):
            edges += [middle - error, middle + error]
    low, high = min(edges), max(edges)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.05
    if chart.fraction:
        return max(low - room, -0.02), min(high + room, 1.02)
    return low - room, high + room


def _in_words(name: str, curve: Series) -> str:
    first, last = curve.values[0], curve.values[-1]
    return (
        f"{name}: {first:.3g} at step {curve.steps[0]}, {last:.3g} at step {curve.steps[-1]}."
        if len(curve.values) > 1
        else f"{name}: {first:.3g} at step {curve.steps[0]}."
    )


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
    """The drawing alone, in the page's colours, without ids that would clash on one page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg aria-hidden="true"', 1)
    for colour_code, variable in VARIABLES.items():
        svg = re.sub(rf"(fill|stroke): {colour_code}", rf"\1: var({variable})", svg)
    return svg
