"""Draws the studies' figures: matplotlib's object API, colours that the colour-blind tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from asymrl.report_figures import GRID, INK, MUTED, PAPER

if TYPE_CHECKING:
    from asymrl.study.claims import Finding
    from asymrl.study.table2 import Line

STYLE: dict[Any, Any] = {"font.size": 8.5, "axes.edgecolor": MUTED, "axes.spines.top": False}
STYLE |= {"axes.spines.right": False, "text.color": INK, "svg.hashsalt": "asymrl"}
# Okabe and Ito's blue, vermilion and grey: apart for all common kinds of colour vision.
LOOKS = {
    "shown": ("#0072b2", "o"),
    "not shown: the opposite": ("#d55e00", "X"),
    "undecided": ("#777777", "s"),
    "not measured": ("#777777", "s"),
}


TICKS = (-10, -3, -1, 0, 1, 3, 10)


def forest(found: Sequence[Finding], file: Path) -> Path:
    """One row a hypothesis, one panel a mix: mean and 95% interval, in units of the standard
    deviation over seeds (so that nats and fractions share an axis), positive where the paper is
    right."""
    mixes = list(dict.fromkeys(one.mix for one in found))
    with matplotlib.rc_context(STYLE):
        rows = len(found) // len(mixes)
        figure = Figure(figsize=(9.6, 1.3 + 0.27 * rows), facecolor=PAPER, layout="constrained")
        panels = figure.subplots(1, len(mixes), sharey=True, squeeze=False)[0]
        for axes, mix in zip(panels, mixes, strict=True):
            axes.axvline(0, color=MUTED, linewidth=0.8)
            for place, one in enumerate(f for f in found if f.mix == mix):
                colour, marker = LOOKS[one.verdict]
                sign, c = one.hypothesis.paper, one.contrast
                unit = spread_of(c.mean, c.low, c.high, c.n)
                if not math.isfinite(c.mean) or not math.isfinite(unit):
                    continue
                ends = sorted((sign * c.low / unit, sign * c.high / unit))
                axes.plot(ends, [place, place], color=colour, linewidth=1.6)
                axes.plot(sign * c.mean / unit, place, marker, color=colour, markersize=5)
            axes.set_title(f"{mix} mix", loc="left", fontsize=9.5)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
            axes.minorticks_off()
            axes.grid(axis="x", color=GRID, linewidth=0.6)
        named = [f for f in found if f.mix == mixes[0]]
        panels[0].set_yticks(
            range(rows), [f"{f.hypothesis.claim}. {f.hypothesis.sentence}" for f in named]
        )
        panels[0].set_ylim(rows - 0.5, -0.5)
        figure.supxlabel(
            "mean difference and 95% interval, in standard deviations over seeds; right of 0: the "
            "sign that the paper says",
            fontsize=8.5,
        )
        for word in ("shown", "not shown: the opposite", "undecided"):
            colour, marker = LOOKS[word]
            panels[-1].plot([], [], marker, color=colour, label=word)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        return saved(figure, file)


def spread_of(mean: float, low: float, high: float, n: int) -> float:
    """The standard deviation behind a t interval; where there is none, the mean's own size."""
    from scipy import stats

    half = (high - low) / 2
    spread = half * math.sqrt(n) / float(stats.t.ppf(0.975, n - 1)) if n > 1 else math.nan
    return spread or abs(mean) or 1.0


def dots(table: Sequence[Line], measures: Sequence[str], file: Path) -> Path:
    """One row an arm, one panel a measure: mean and standard error over seeds."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(9.6, 0.9 + 0.24 * len(table)), facecolor=PAPER, layout="constrained"
        )
        panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        names = [line.arm for line in table]
        for axes, name in zip(panels, measures, strict=True):
            means, errors = zip(*(line.values[name] for line in table), strict=True)
            axes.errorbar(
                means, range(len(names)), xerr=errors, fmt="o", color="#0072b2", markersize=4
            )
            axes.set_title(name, loc="left", fontsize=9.5)
            axes.grid(color=GRID, linewidth=0.6)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        figure.supxlabel("mean and standard error over seeds", fontsize=8.5, color=MUTED)
        return saved(figure, file)


def heat_map(
    means: Mapping[tuple[float, float], float], points: Sequence[float], file: Path
) -> Path:
    """beta_neg to the right, beta_pos upwards, the number in each cell."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.4), facecolor=PAPER, layout="constrained")
        axes = figure.subplots()
        cells = [[means[pos, neg] for neg in points] for pos in points]
        picture = axes.imshow(cells, cmap="cividis", origin="lower")
        middle = (min(map(min, cells)) + max(map(max, cells))) / 2
        for y, row in enumerate(cells):
            for x, number in enumerate(row):
                colour = PAPER if number < middle else INK
                axes.text(x, y, f"{number:.3f}", ha="center", va="center", color=colour)
        axes.set_xticks(range(len(points)), [f"{p:g}" for p in points])
        axes.set_yticks(range(len(points)), [f"{p:g}" for p in points])
        axes.set_xlabel("beta_neg")
        axes.set_ylabel("beta_pos")
        figure.colorbar(picture, ax=axes, label="accuracy at temperature 1")
        return saved(figure, file)


def saved(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})
    return file
