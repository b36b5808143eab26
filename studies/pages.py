"""Pieces of the studies' pages: tables, numbers with errors, figures, budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

from asymrl.statistics import PairedTest
from studies.results import Result


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def with_error(average: float, stderr: float) -> str:
    """One seed has no standard error."""
    if not math.isfinite(average):
        return "-"
    return f"{average:.3f} ± {stderr:.3f}" if math.isfinite(stderr) else f"{average:.3f}"


def interval(test: PairedTest) -> str:
    return f"{test.low:+.4f} to {test.high:+.4f}" if math.isfinite(test.low) else "-"


def with_interval(test: PairedTest) -> str:
    if test.mean == test.low == test.high == 0:
        return "-"
    if math.isnan(test.low):
        return f"{test.mean:+.3f}"
    return f"{test.mean:+.3f} ({test.low:+.3f} to {test.high:+.3f})"


def save_figure(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})
    return file


def budget(results: Sequence[Result]) -> str:
    """How many runs, of which code and software, and how long they took together."""
    lines = []
    for task in dict.fromkeys(one.task for one in results):
        runs = [one for one in results if one.task == task]
        commits = dict.fromkeys(one.commit[:7] for one in runs)
        dates = sorted(one.date for one in runs)
        when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        lines.append(
            f"- `{task}`: {len(runs)} runs, {timedelta(seconds=sum(one.seconds for one in runs))} "
            f"in total, one thread per run, {when}; commits "
            f"{', '.join(commits)}; {'; '.join(dict.fromkeys(one.software for one in runs))}."
        )
    return "\n".join(lines)
