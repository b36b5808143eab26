"""The paper's table on the pocket task, with paired differences to GRPO, and the paper's Fig. 4d
(accuracy over the grid of betas, as a heat map)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from asymrl.files import write_atomically
from asymrl.report.drawing import GRID, MUTED, PAPER, draw_heat_map, figure_style
from asymrl.statistics import PairedTest, finite_mean, paired_test, standard_error
from studies import results
from studies.jobs import CALIBRATION_SEED, GRID_NEG, GRID_POS, betas
from studies.pages import budget, markdown_table, save_figure, with_error, with_interval
from studies.results import Measure, Result, Seed, by_seed

ANCHOR, UNTRAINED = "grpo", "untrained"
MEASURES: Mapping[str, Measure] = {
    "greedy": results.greedy,
    "T = 0.4": results.tempered,
    "pass@1": partial(results.pass_at, k=1),
    "pass@8": partial(results.pass_at, k=8),
    "pass@64": partial(results.pass_at, k=64),
    "entropy at the end": partial(results.at_the_end, metric="policy/entropy"),
    "none-solved, run": results.none_solved,
}
TABLE2_HEAD = """# The paper's table on the pocket task

{opening}

Made by `python -m studies report table2` from [results/pocket.jsonl](results/pocket.jsonl); not
written by hand. Mean and standard error over {seeds} seeds, which all rows share; each seed has
misremembered facts and a warm start of its own. Accuracy is on 320 held-out problems: greedy, at
temperature 0.4 (4 samples), and pass@k at temperature 1 from 64 samples. Entropy (nats a token)
is a mean over the last 10 steps, the share of groups without a correct rollout over the whole
run. The last column is the mean paired difference of greedy accuracy to GRPO with its 95% t
interval, nothing adjusted. **Bold** is the highest mean of a column, <u>underlined</u> the
second. `untrained` is the policy before training.
"""


def report_table2(docs: Path, found: Mapping[str, Sequence[Result]]) -> list[Path]:
    """Write table2.md and table2.png."""
    arms = list(dict.fromkeys(one.arm for one in found["pocket"]))
    seeds = complete(by_seed(found["pocket"]), arms)
    means = {
        arm: {
            name: (finite_mean(x), standard_error(x))
            for name, measure in MEASURES.items()
            if (x := [measure(seed[arm]) for seed in seeds])
        }
        for arm in arms
    }
    opening = opening_of_table(seeds, arms, means)
    figure = draw_rows(arms, means, docs / "table2.png")
    text = [
        TABLE2_HEAD.format(opening=opening, seeds=len(seeds)),
        markdown(seeds, arms, means),
        "",
        "![Accuracy and entropy by row, with standard errors](table2.png)",
        "",
        "## What was spent",
        "",
        budget(found["pocket"]),
    ]
    write_atomically(docs / "table2.md", "\n".join(text) + "\n")
    return [docs / "table2.md", figure]


def complete(seeds: Mapping[int, Seed], arms: Sequence[str]) -> list[Seed]:
    """The seeds that have all arms."""
    return [seed for seed in seeds.values() if set(arms) <= seed.keys()]


Means = Mapping[str, Mapping[str, tuple[float, float]]]


def opening_of_table(seeds: Sequence[Seed], arms: Sequence[str], means: Means) -> str:
    """Three sentences to quote."""
    if len(seeds) < 2:
        return f"{len(seeds)} complete seeds: no standard errors, and nothing tells rows apart."
    trained = [arm for arm in arms if arm != UNTRAINED]
    ranked = sorted(trained, key=lambda arm: -means[arm]["greedy"][0])
    best = ranked[0]
    near = [arm for arm in ranked[1:] if not to_other(seeds, arm, best).high < 0]
    start, end = means[UNTRAINED], means[best]
    return (
        f"The untrained policy has a greedy accuracy of {with_error(*start['greedy'])} and "
        f"{with_error(*start['T = 0.4'])} at temperature 0.4; the best row, `{best}`, reaches "
        f"{with_error(*end['greedy'])}. Not distinguishable from it over {len(seeds)} seeds (the "
        "paired 95% interval of the difference contains 0, nothing adjusted): "
        f"{', '.join(f'`{arm}`' for arm in near) or 'none'}. AsymGRPO (0.9, 0.4) against GRPO: "
        f"{with_interval(to_other(seeds, 'asym', ANCHOR))}."
    )


def to_other(seeds: Sequence[Seed], arm: str, other: str) -> PairedTest:
    """Greedy accuracy of `arm` minus that of `other`, paired by seed."""
    return paired_test([results.greedy(seed[arm]) - results.greedy(seed[other]) for seed in seeds])


def markdown(seeds: Sequence[Seed], arms: Sequence[str], means: Means) -> str:
    accuracies = list(MEASURES)[:5]
    top_two = {name: sorted(arms, key=lambda arm: -means[arm][name][0])[:2] for name in accuracies}
    rows = []
    for arm in arms:
        cells = []
        for name, (average, stderr) in means[arm].items():
            text = with_error(average, stderr)
            if arm in (top := top_two.get(name, [])):
                text = f"**{text}**" if arm == top[0] else f"<u>{text}</u>"
            cells.append(text)
        rows.append([arm, *cells, with_interval(to_other(seeds, arm, ANCHOR))])
    return markdown_table(["row", *MEASURES, "greedy, to GRPO"], rows)


def draw_rows(arms: Sequence[str], means: Means, file: Path) -> Path:
    """One row an arm, one panel a measure: mean and standard error over seeds."""
    names = ("greedy", "T = 0.4", "pass@64", "entropy at the end")
    with figure_style():
        figure = Figure(
            figsize=(9.6, 0.9 + 0.24 * len(arms)), facecolor=PAPER, layout="constrained"
        )
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            values, errors = zip(*(means[arm][name] for arm in arms), strict=True)
            axes.errorbar(
                values, range(len(arms)), xerr=errors, fmt="o", color="#0072b2", markersize=4
            )
            axes.axvline(means[UNTRAINED][name][0], color=MUTED, linewidth=0.8, linestyle="--")
            axes.set_title(name, loc="left", fontsize=9.5)
            axes.grid(color=GRID, linewidth=0.6)
        panels[0].set_yticks(range(len(arms)), arms)
        panels[0].invert_yaxis()
        figure.supxlabel(
            "mean and standard error over seeds; dashed: the untrained policy",
            fontsize=8.5,
            color=MUTED,
        )
        return save_figure(figure, file)


BONUS_HEAD = """# The coefficient of the entropy bonus

Made by `python -m studies report bonus`; not written by hand. Greedy accuracy on held-out
problems after training, mean over seeds {first} and above, which no other study uses. The rows
`reinforce_ent` and `grpo_ent` have the coefficient with the highest mean over both tasks.
"""


def report_bonus(docs: Path, found: Mapping[str, Sequence[Result]]) -> list[Path]:
    """Write bonus.md."""
    rows = []
    for arm in dict.fromkeys(one.arm for runs in found.values() for one in runs):
        by_task = [
            [results.greedy(one) for one in runs if one.arm == arm] for runs in found.values()
        ]
        columns = [*by_task, [x for numbers in by_task for x in numbers]]
        rows.append([arm, *(with_error(finite_mean(x), standard_error(x)) for x in columns)])
    everything = [one for runs in found.values() for one in runs]
    text = [
        BONUS_HEAD.format(first=CALIBRATION_SEED),
        markdown_table(["arm", *found, "both"], rows),
        "",
        budget(everything),
    ]
    write_atomically(docs / "bonus.md", "\n".join(text) + "\n")
    return [docs / "bonus.md"]


GRID_HEAD = """# Accuracy over the betas (the paper's Fig. 4d) on the pocket task

{opening}

Made by `python -m studies report grid` from [results/pocket.jsonl](results/pocket.jsonl); not
written by hand. Greedy accuracy on held-out problems, mean over {seeds} seeds, each with
misremembered facts and a warm start of its own. The standard error of a cell is about {error:.3f}
(root mean square over the cells, each seed's mean over the cells taken away: what is left when
cells are compared).
"""


def report_grid(docs: Path, found: Mapping[str, Sequence[Result]]) -> list[Path]:
    """Write grid.md and grid.png."""
    points = [(pos, neg) for pos in GRID_POS for neg in GRID_NEG]
    arms = [betas(*point).name for point in points]
    seeds = complete(by_seed(found["pocket"]), arms)
    table = np.array([[results.greedy(seed[arm]) for arm in arms] for seed in seeds])
    means = dict(zip(points, table.mean(0), strict=True))
    heat_map = draw_heat_map(
        "grid",
        "Accuracy by beta_pos and beta_neg",
        "greedy accuracy (fraction)",
        "",
        {at: (betas(*at).name, float(mean)) for at, mean in means.items()},
    )
    figure = docs / "grid.png"
    write_atomically(figure, heat_map.png)
    rows = [[f"**{pos:g}**", *(f"{means[pos, neg]:.3f}" for neg in GRID_NEG)] for pos in GRID_POS]
    text = [
        GRID_HEAD.format(
            opening=opening_of_grid(table, points), seeds=len(seeds), error=cell_error(table)
        ),
        markdown_table(["beta_pos \\ beta_neg", *(f"{neg:g}" for neg in GRID_NEG)], rows),
        "",
        "![Accuracy over beta_pos and beta_neg](grid.png)",
        "",
        "## What was spent",
        "",
        budget([one for one in found["pocket"] if one.arm in arms]),
    ]
    write_atomically(docs / "grid.md", "\n".join(text) + "\n")
    return [docs / "grid.md", figure]


def cell_error(table: np.ndarray) -> float:
    """table: (seeds, cells). The root mean square of the cells' standard errors, within seeds."""
    within = table - table.mean(1, keepdims=True)
    return finite_mean([standard_error(column) ** 2 for column in within.T]) ** 0.5


def opening_of_grid(table: np.ndarray, points: Sequence[tuple[float, float]]) -> str:
    """Three sentences to quote: extremes, whether cells repeat, the trend of each beta."""
    means = table.mean(0)
    best, worst = points[int(means.argmax())], points[int(means.argmin())]
    halves = "too few seeds to say whether cells repeat"
    if len(table) >= 4:
        correlation = np.corrcoef(table[::2].mean(0), table[1::2].mean(0))[0, 1]
        halves = f"the cells of even and odd seeds correlate by {correlation:.2f}"
    trends = []
    for name, which in (("beta_pos", 0), ("beta_neg", 1)):
        x = [point[which] for point in points]
        test = paired_test([results.slope(x, row) for row in table])
        trends.append(f"{with_interval(test)} per unit of {name}")
    return (
        f"The highest mean is {means.max():.3f} at {best}, the lowest {means.min():.3f} at "
        f"{worst}; "
        f"the paper's best point is (0.9, 0.4), here {means[points.index((0.9, 0.4))]:.3f}. Of "
        f"{len(table)} seeds, {halves}. The slope of accuracy over the grid is "
        f"{' and '.join(trends)}."
    )
