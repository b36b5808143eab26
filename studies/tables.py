"""The paper's table on the pocket task, with paired differences to GRPO, and the paper's Fig. 4d
(accuracy over the grid of betas, as a heat map)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from asymrl.files import write_atomically
from asymrl.report.drawing import GRID as GRID_COLOUR
from asymrl.report.drawing import MUTED, PAPER, draw_heat_map, figure_style
from asymrl.statistics import PairedTest, direction, finite_mean, paired_test, standard_error
from asymrl.types import frozen
from studies.jobs import GRID, SCHEDULED, Job, betas
from studies.measures import accuracy
from studies.results import (
    Result,
    Seed,
    at_the_end,
    by_seed,
    markdown_table,
    per_seed,
    ran_on,
    save_figure,
)
from studies.runs import SAMPLES


def draw_rows(rows: Sequence[Row], measures: Sequence[str], file: Path) -> Path:
    """One row an arm, one panel a measure: mean and standard error over seeds."""
    with figure_style():
        figure = Figure(
            figsize=(9.6, 0.9 + 0.24 * len(rows)), facecolor=PAPER, layout="constrained"
        )
        panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        names = [row.arm for row in rows]
        for axes, name in zip(panels, measures, strict=True):
            means, errors = zip(*(row.values[name] for row in rows), strict=True)
            axes.errorbar(
                means, range(len(names)), xerr=errors, fmt="o", color="#0072b2", markersize=4
            )
            axes.set_title(name, loc="left", fontsize=9.5)
            axes.grid(color=GRID_COLOUR, linewidth=0.6)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        figure.supxlabel("mean and standard error over seeds", fontsize=8.5, color=MUTED)
        return save_figure(figure, file)


GRID_HEAD = """# Accuracy over the betas (the paper's Fig. 4d) on the pocket task

Made by `python -m studies grid`; not written by hand. Greedy accuracy on held-out problems,
mean over {seeds} seeds. The standard error of a cell is about {error:.3f} (root
mean square over the cells), so neighbours are seldom told apart; table2-pocket.md has rows with
more seeds.
"""


def report_grid(jobs: Sequence[Job], out: Path, docs: Path, command: str) -> list[Path]:
    """Write grid-pocket.md and grid-pocket.png."""
    seeds = by_seed(jobs, "facts")
    cells = {
        (pos, neg): per_seed(seeds, betas(pos, neg).name, accuracy) for pos in GRID for neg in GRID
    }
    means = {at: finite_mean(numbers) for at, numbers in cells.items()}
    error = finite_mean([standard_error(numbers) ** 2 for numbers in cells.values()]) ** 0.5
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    heat_map = draw_heat_map(
        "grid-pocket",
        "Accuracy by beta_pos and beta_neg",
        "greedy accuracy (fraction)",
        "",
        {at: (betas(*at).name, number) for at, number in means.items()},
    )
    figure = docs / "grid-pocket.png"
    write_atomically(figure, heat_map.png)
    rows = [[f"**{pos:g}**", *(f"{means[pos, neg]:.3f}" for neg in GRID)] for pos in GRID]
    text = [
        GRID_HEAD.format(seeds=len(seeds), error=error),
        markdown_table(["beta_pos \\ beta_neg", *(f"{neg:g}" for neg in GRID)], rows),
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
    return [docs / "grid-pocket.md", figure]


ANCHOR = "grpo"


@frozen
class Row:
    """A row of the table. values: measure -> (mean, standard error over seeds). to_grpo, to_asym:
    paired differences of accuracy at temperature 1, to GRPO and to `asym`."""

    arm: str
    values: Mapping[str, tuple[float, float]]
    to_grpo: PairedTest
    to_asym: PairedTest


def accuracy_at(result: Result, temperature: float) -> float:
    return result.accuracy[temperature]


MEASURES: Mapping[str, Callable[[Result], float]] = {
    "greedy accuracy": accuracy,
    f"avg@{SAMPLES}, T = 0.4": partial(accuracy_at, temperature=0.4),
    f"avg@{SAMPLES}, T = 1": partial(accuracy_at, temperature=1.0),
    "entropy at the end": partial(at_the_end, metric="policy/entropy"),
    "none solved at the end": partial(at_the_end, metric="groups/none_solved"),
}
RANKED_BY = "greedy accuracy"


def accuracy_difference(seeds: Sequence[Seed], arm: str, other: str) -> PairedTest:
    """`arm` minus `other` in greedy accuracy, paired by seed."""
    numbers, others = (per_seed(seeds, name, MEASURES[RANKED_BY]) for name in (arm, other))
    return paired_test([a - b for a, b in zip(numbers, others, strict=True)])


def table_row(seeds: Sequence[Seed], arm: str) -> Row:
    numbers = {name: per_seed(seeds, arm, measure) for name, measure in MEASURES.items()}
    return Row(
        arm=arm,
        values={name: (finite_mean(x), standard_error(x)) for name, x in numbers.items()},
        to_grpo=accuracy_difference(seeds, arm, ANCHOR),
        to_asym=accuracy_difference(seeds, arm, "asym"),
    )


def near_the_best(seeds: Sequence[Seed], rows: Sequence[Row]) -> list[str]:
    """The best arm, then the arms whose paired 95% interval of the difference to it contains 0.

    The best arm is selected by the same numbers without any adjustment, so this is a reading aid
    and not a test.
    """
    ranked = sorted(rows, key=lambda row: -row.values[RANKED_BY][0])
    best = ranked[0].arm
    near = [row.arm for row in ranked[1:] if not accuracy_difference(seeds, row.arm, best).high < 0]
    return [best, *near]


def report_table2(jobs: Sequence[Job], out: Path, docs: Path, command: str) -> list[Path]:
    """Write table2-pocket.md and table2-pocket.png."""
    seeds = by_seed(jobs, "facts")
    rows = [table_row(seeds, arm) for arm in dict.fromkeys(job.arm.name for job in jobs)]
    near = near_the_best(seeds, rows)
    figure = draw_rows(rows, list(MEASURES)[:4], docs / "table2-pocket.png")
    text = [
        TABLE2_HEAD.format(seeds=len(seeds), samples=SAMPLES),
        markdown(rows),
        "",
        near_the_best_sentence(near, len(seeds)),
        "",
        *schedules_section(rows),
        "![Accuracy and entropy by arm, with standard errors](table2-pocket.png)",
        "",
        "## How it was obtained",
        "",
        f"`{command}`, finished {time.strftime('%Y-%m-%d')}: {len(jobs)} runs, "
        f"seeds 0 to {len(seeds) - 1}, {max(job.steps for job in jobs)} steps each, the last "
        f"checkpoint; 320 held-out problems. {ran_on(jobs)}.",
    ]
    write_atomically(docs / "table2-pocket.md", "\n".join(text) + "\n")
    return [docs / "table2-pocket.md", figure]


def near_the_best_sentence(near: Sequence[str], seeds: int) -> str:
    if seeds == 1:
        return "One seed gives no standard errors: nothing here tells two rows apart."
    return (
        f"Not distinguishable from the best, {near[0]}, over these seeds (the paired 95% interval "
        "of the difference contains 0, nothing adjusted): "
        f"{', '.join(near[1:]) or 'none'}. The order among these means little."
    )


TABLE2_HEAD = """# The paper's table on the pocket task

Made by `python -m studies table2`; not written by hand. Mean and standard error over seeds ({seeds}
of them), which all arms share; each seed has misremembered facts and a warm start of its own.
Accuracy is on held-out problems, greedy and avg@{samples} at temperatures 0.4 and 1. Entropy (nats
a token) and the none-solved fraction are means over the last 10 steps. The last column is the mean
paired difference of greedy accuracy to GRPO, with its 95% t interval. **Bold** is the highest mean
of a column, <u>underlined</u> the second. `base` is the untrained policy, its
entropy that of one batch.
"""


def markdown(rows: Sequence[Row]) -> str:
    """The table; of the three accuracies the best is bold and the second underlined."""
    top_two = {
        name: [row.arm for row in sorted(rows, key=lambda row: -row.values[name][0])[:2]]
        for name in list(MEASURES)[:3]
    }
    lines = []
    for row in rows:
        cells = []
        for name, (average, stderr) in row.values.items():
            text = with_error(average, stderr)
            if row.arm in (top := top_two.get(name, [])):
                text = f"**{text}**" if row.arm == top[0] else f"<u>{text}</u>"
            cells.append(text)
        lines.append([row.arm, *cells, with_interval(row.to_grpo)])
    return markdown_table(["row", *MEASURES, "to GRPO"], lines)


def schedules_section(rows: Sequence[Row]) -> list[str]:
    """The schedules beside the fixed betas that they start from."""
    names = {arm.name for arm in SCHEDULED}
    lines = [
        [
            row.arm,
            with_error(*row.values[RANKED_BY]),
            with_interval(row.to_asym),
            direction(row.to_asym.low, row.to_asym.high),
        ]
        for row in rows
        if row.arm in names
    ]
    if not lines:
        return []
    table = markdown_table(["schedule", RANKED_BY, "to asym", "that is"], lines)
    intro = ["## Schedules beside fixed (0.9, 0.4)", "", "Same seeds, same start.", ""]
    return [*intro, table, ""]


def with_error(average: float, stderr: float) -> str:
    """One seed has no standard error."""
    if not math.isfinite(average):
        return "-"
    return f"{average:.3f} ± {stderr:.3f}" if math.isfinite(stderr) else f"{average:.3f}"


def with_interval(test: PairedTest) -> str:
    if test.mean == test.low == test.high == 0:
        return "-"
    if math.isnan(test.low):
        return f"{test.mean:+.3f}"
    return f"{test.mean:+.3f} ({test.low:+.3f} to {test.high:+.3f})"
