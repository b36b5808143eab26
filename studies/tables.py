"""The tables of studies on the pocket task: the paper's table (rows, paired differences to GRPO)
and its Fig. 4d (accuracy over the grid of betas, as a heat map)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from asymrl.files import write_atomically
from asymrl.report.drawing import GRID as GRID_COLOUR
from asymrl.report.drawing import INK, MUTED, PAPER
from asymrl.statistics import Contrast, paired, standard_error
from asymrl.types import frozen
from studies.jobs import GRID, SCHEDULED, Job, betas
from studies.measures import accuracy
from studies.results import (
    FIGURE_STYLE,
    Result,
    Seed,
    at_the_end,
    by_seed,
    each,
    mean,
    ran_on,
    save_figure,
)
from studies.runs import SAMPLES


def dots(table: Sequence[Line], measures: Sequence[str], file: Path) -> Path:
    """One row an arm, one panel a measure: mean and standard error over seeds."""
    with matplotlib.rc_context(FIGURE_STYLE):
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
            axes.grid(color=GRID_COLOUR, linewidth=0.6)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        figure.supxlabel("mean and standard error over seeds", fontsize=8.5, color=MUTED)
        return save_figure(figure, file)


def heat_map(
    means: Mapping[tuple[float, float], float], points: Sequence[float], file: Path
) -> Path:
    """beta_neg to the right, beta_pos upwards, the number in each cell."""
    with matplotlib.rc_context(FIGURE_STYLE):
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
        return save_figure(figure, file)


GRID_HEAD = """# Accuracy over the betas (the paper's Fig. 4d) on the pocket task

Made by `make grid-pocket`; not written by hand. avg@{samples} at temperature 1 on held-out
problems, easy mix, mean over {seeds} seeds. The standard error of a cell is about {error:.3f} (root
mean square over the cells), so neighbours are seldom told apart; table2-pocket.md has rows with
more seeds.
"""


def report_grid(jobs: Sequence[Job], out: Path, docs: Path, command: str) -> list[Path]:
    """Write grid-pocket.md and grid-pocket.png."""
    seeds = by_seed(jobs, "easy")
    cells = {
        (pos, neg): each(seeds, betas(pos, neg).name, accuracy) for pos in GRID for neg in GRID
    }
    means = {at: mean(numbers) for at, numbers in cells.items()}
    error = mean([standard_error(numbers) ** 2 for numbers in cells.values()]) ** 0.5
    best, worst = (pick(means, key=means.__getitem__) for pick in (max, min))
    picture = heat_map(means, GRID, docs / "grid-pocket.png")
    rows = ["| beta_pos \\ beta_neg | " + " | ".join(f"{neg:g}" for neg in GRID) + " |"]
    rows.append("|---" * (len(GRID) + 1) + "|")
    for pos in GRID:
        rows.append(f"| **{pos:g}** | " + " | ".join(f"{means[pos, n]:.3f}" for n in GRID) + " |")
    text = [
        GRID_HEAD.format(samples=SAMPLES, seeds=len(seeds), error=error),
        *rows,
        "",
        f"Highest: {means[best]:.3f} at {best}; lowest: {means[worst]:.3f} at {worst}.",
        "",
        "![Accuracy over beta_pos and beta_neg](grid-pocket.png)",
        "",
        "## How it was obtained",
        "",
        f"`{command}`, finished {time.strftime('%Y-%m-%d')}: {len(jobs)} runs, "
        f"{max(job.steps for job in jobs)} steps each, the last checkpoint. {ran_on(jobs)}.",
    ]
    write_atomically(docs / "grid-pocket.md", "\n".join(text) + "\n")
    return [docs / "grid-pocket.md", picture]


ANCHOR = "grpo"


@frozen
class Line:
    """A row of the table. values: measure -> (mean, standard error over seeds); to_grpo and
    to_fixed: paired differences of accuracy at temperature 1, to GRPO and to `asym`."""

    arm: str
    values: Mapping[str, tuple[float, float]]
    to_grpo: Contrast
    to_asym: Contrast


def table2_accuracy(result: Result, temperature: float) -> float:
    return result.accuracy[temperature]


MEASURES: Mapping[str, Callable[[Result], float]] = {
    "accuracy, T = 1": partial(table2_accuracy, temperature=1.0),
    f"avg@{SAMPLES}, T = 0.4": partial(table2_accuracy, temperature=0.4),
    "entropy at the end": partial(at_the_end, metric="policy/entropy"),
    "none solved at the end": partial(at_the_end, metric="groups/none_solved"),
}
HOT = "accuracy, T = 1"


def differences(seeds: Sequence[Seed], arm: str, other: str) -> Contrast:
    """Of accuracy at temperature 1, paired by seed."""
    ours, theirs = (each(seeds, name, MEASURES[HOT]) for name in (arm, other))
    return paired([a - b for a, b in zip(ours, theirs, strict=True)])


def lines(seeds: Sequence[Seed], arms: Sequence[str]) -> list[Line]:
    made = []
    for arm in arms:
        columns = {name: each(seeds, arm, measure) for name, measure in MEASURES.items()}
        made.append(
            Line(
                arm=arm,
                values={
                    n: (mean(numbers), standard_error(numbers)) for n, numbers in columns.items()
                },
                to_grpo=differences(seeds, arm, ANCHOR),
                to_asym=differences(seeds, arm, "asym"),
            )
        )
    return made


def like_the_best(seeds: Sequence[Seed], table: Sequence[Line]) -> list[str]:
    """The arms whose paired 95% interval of the difference to the best one contains 0, best first.

    The best one is chosen by the same numbers and nothing is adjusted for that, so this is a
    reading aid and no test.
    """
    ranked = sorted(table, key=lambda line: -line.values[HOT][0])
    best = ranked[0].arm
    near = [line.arm for line in ranked[1:] if not differences(seeds, line.arm, best).high < 0]
    return [best, *near]


def report_table2(jobs: Sequence[Job], out: Path, docs: Path, command: str) -> list[Path]:
    """Write table2-pocket.md and table2-pocket.png."""
    seeds = by_seed(jobs, "easy")
    table = lines(seeds, list(dict.fromkeys(job.arm.name for job in jobs)))
    near = like_the_best(seeds, table)
    picture = dots(table, list(MEASURES)[:3], docs / "table2-pocket.png")
    text = [
        TABLE2_HEAD.format(seeds=len(seeds), samples=SAMPLES),
        *markdown(table),
        "",
        alike(near, len(seeds)),
        "",
        *schedules(table),
        "![Accuracy and entropy by arm, with standard errors](table2-pocket.png)",
        "",
        "## How it was obtained",
        "",
        f"`{command}`, finished {time.strftime('%Y-%m-%d')}: {len(jobs)} runs on the easy mix, "
        f"seeds 0 to {len(seeds) - 1}, {max(job.steps for job in jobs)} steps each, the last "
        f"checkpoint; 320 held-out problems. {ran_on(jobs)}.",
    ]
    write_atomically(docs / "table2-pocket.md", "\n".join(text) + "\n")
    return [docs / "table2-pocket.md", picture]


def alike(near: Sequence[str], seeds: int) -> str:
    if seeds == 1:
        return "Of one seed there are no errors: nothing here tells two rows apart."
    return (
        f"Not distinguishable from the best, {near[0]}, over these seeds (the paired 95% interval "
        "of the difference contains 0, nothing adjusted): "
        f"{', '.join(near[1:]) or 'none'}. The order among these means little."
    )


TABLE2_HEAD = """# The paper's table on the pocket task

Made by `make table2-pocket`; not written by hand. Mean and standard error over seeds ({seeds} of
them), which all arms share; the warm-started policy is the same for all. Accuracy is avg@{samples}
on held-out problems at temperature 1 and at 0.4. Entropy (nats a token) and the none-solved
fraction are means over the last 10 steps. The last column is the mean paired difference of accuracy
at temperature 1 to GRPO, with its 95% t interval. **Bold** is the highest mean of a column,
<u>underlined</u> the second. `base` is the untrained policy, its entropy that of one batch.
"""


def markdown(table: Sequence[Line]) -> list[str]:
    ranked = {
        name: sorted(table, key=lambda line: -line.values[name][0])[:2]
        for name in list(MEASURES)[:2]
    }
    rows = ["| row | " + " | ".join(MEASURES) + " | to GRPO |", "|---" * (len(MEASURES) + 2) + "|"]
    for line in table:
        cells = []
        for name, (middle, error) in line.values.items():
            text = with_error(middle, error)
            top = [other.arm for other in ranked.get(name, [])]
            if line.arm in top:
                text = f"**{text}**" if line.arm == top[0] else f"<u>{text}</u>"
            cells.append(text)
        rows.append(f"| {line.arm} | " + " | ".join([*cells, in_words(line.to_grpo)]) + " |")
    return rows


def schedules(table: Sequence[Line]) -> list[str]:
    """The schedules beside the fixed betas that they start from."""
    ours = [line for line in table if line.arm in {arm.name for arm in SCHEDULED}]
    if not ours:
        return []
    rows = ["## Schedules beside fixed (0.9, 0.4)", "", "Same seeds, same start.", ""]
    rows += ["| schedule | accuracy, T = 1 | to asym | that is |", "|---|---|---|---|"]
    for line in ours:
        middle, error = line.values[HOT]
        c = line.to_asym
        word = "higher" if c.low > 0 else "lower" if c.high < 0 else "not distinguishable"
        rows.append(f"| {line.arm} | {with_error(middle, error)} | {in_words(c)} | {word} |")
    return [*rows, ""]


def with_error(middle: float, error: float) -> str:
    """Of one seed there is no error."""
    if not math.isfinite(middle):
        return "-"
    return f"{middle:.3f} ± {error:.3f}" if math.isfinite(error) else f"{middle:.3f}"


def in_words(contrast: Contrast) -> str:
    if contrast.mean == contrast.low == contrast.high == 0:
        return "-"
    if math.isnan(contrast.low):
        return f"{contrast.mean:+.3f}"
    return f"{contrast.mean:+.3f} ({contrast.low:+.3f} to {contrast.high:+.3f})"
