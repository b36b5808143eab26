"""Fig. 4d on the pocket task: accuracy over the grid of betas, as a heat map and a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from asymrl.files import write_atomically
from asymrl.study import figures
from asymrl.study.arms import GRID, Job, betas
from asymrl.study.measures import accuracy
from asymrl.study.results import by_seed, each, mean, ran_on
from asymrl.study.runs import SAMPLES
from asymrl.study.statistics import standard_error

HEAD = """# Accuracy over the betas (the paper's Fig. 4d) on the pocket task

Made by `make grid-pocket`; not written by hand. avg@{samples} at temperature 1 on held-out
problems, easy mix, mean over {seeds} seeds. The standard error of a cell is about {error:.3f} (root
mean square over the cells), so neighbours are seldom told apart; table2-pocket.md has rows with
more seeds.
"""


def report(jobs: Sequence[Job], out: Path, docs: Path, command: str) -> list[Path]:
    """Write grid-pocket.md and grid-pocket.png."""
    seeds = by_seed(jobs, "easy")
    cells = {
        (pos, neg): each(seeds, betas(pos, neg).name, accuracy) for pos in GRID for neg in GRID
    }
    means = {at: mean(numbers) for at, numbers in cells.items()}
    error = mean([standard_error(numbers) ** 2 for numbers in cells.values()]) ** 0.5
    best, worst = (pick(means, key=means.__getitem__) for pick in (max, min))
    picture = figures.heat_map(means, GRID, docs / "grid-pocket.png")
    rows = ["| beta_pos \\ beta_neg | " + " | ".join(f"{neg:g}" for neg in GRID) + " |"]
    rows.append("|---" * (len(GRID) + 1) + "|")
    for pos in GRID:
        rows.append(f"| **{pos:g}** | " + " | ".join(f"{means[pos, n]:.3f}" for n in GRID) + " |")
    text = [
        HEAD.format(samples=SAMPLES, seeds=len(seeds), error=error),
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
