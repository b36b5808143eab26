"""Reads what runs left behind: metrics of every step, accuracies, and what they ran on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from asymrl.errors import UserError
from asymrl.report.drawing import INK, MUTED
from asymrl.types import frozen
from studies.jobs import Job
from studies.runs import TEMPERATURES, summary_file

FIGURE_STYLE: dict[Any, Any] = {"font.size": 8.5, "axes.edgecolor": MUTED, "axes.spines.top": False}
FIGURE_STYLE |= {"axes.spines.right": False, "text.color": INK, "svg.hashsalt": "asymrl"}


def save_figure(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})
    return file


Row = Mapping[str, float]


@frozen
class Result:
    """One run. rows: metrics of steps 1 to the last, nan where a metric is null; accuracy:
    temperature -> avg@k of the last checkpoint, the mean over its benchmarks."""

    rows: tuple[Row, ...]
    accuracy: Mapping[float, float]


Seed = Mapping[str, Result]  # arm -> its run, all with one seed on one mix


def read(job: Job) -> Result:
    """UserError where the folder does not hold the whole run."""
    rows = [row for row in metrics(job.folder) if 1 <= row["step"] <= job.steps]
    if [row["step"] for row in rows] != list(range(1, job.steps + 1)):
        raise UserError(f"{job.folder}/metrics.jsonl does not have the steps 1 to {job.steps}")
    scores = {t: scored(summary_file(job, t)) for t in TEMPERATURES}
    return Result(
        rows=tuple(rows),
        accuracy={
            t: mean([benchmark["avg"] for benchmark in found.values()])
            for t, found in scores.items()
        },
    )


def by_seed(jobs: Sequence[Job], mix: str) -> list[Seed]:
    """The runs of a mix, seed by seed."""
    seeds: dict[int, dict[str, Result]] = {}
    for job in jobs:
        if job.mix == mix:
            seeds.setdefault(job.seed, {})[job.arm.name] = read(job)
    return [seeds[seed] for seed in sorted(seeds)]


def metrics(folder: Path) -> Iterator[dict[str, float]]:
    file = folder / "metrics.jsonl"
    try:
        with file.open() as lines:
            for line in lines:
                yield {k: math.nan if v is None else v for k, v in json.loads(line).items()}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def scored(summary: Path) -> dict[str, dict[str, float]]:
    """benchmark -> its scores, of a summary.json that eval.py wrote."""
    try:
        return json.loads(summary.read_text())["benchmarks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{summary} cannot be read: {error!r}") from None


def mean(numbers: Sequence[float]) -> float:
    """Over the numbers that are known; nan where none is."""
    known = [number for number in numbers if math.isfinite(number)]
    return sum(known) / len(known) if known else math.nan


def column(result: Result, metric: str) -> list[float]:
    return [row.get(metric, math.nan) for row in result.rows]


def average(result: Result, metric: str) -> float:
    """Mean of a metric over all steps that have it."""
    return mean(column(result, metric))


def at_the_end(result: Result, metric: str, steps: int = 10) -> float:
    """Mean over the last steps."""
    return mean(column(result, metric)[-steps:])


def each(seeds: Sequence[Seed], arm: str, measure: Callable[[Result], float]) -> list[float]:
    """A measure of one arm, a number a seed."""
    return [measure(seed[arm]) for seed in seeds]


def ran_on(jobs: Sequence[Job]) -> str:
    """Versions that the runs state of themselves, in words; several where they differ."""
    said = []
    for job in jobs:
        try:
            facts = json.loads((job.folder / "environment.json").read_text())[-1]
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"{job.folder}/environment.json cannot be read: {error}") from None
        versions = ", ".join(f"{n} {facts['packages'][n]}" for n in ("torch", "transformers"))
        commit = facts["git_commit"]
        said.append(
            f"Python {facts['python']}, {versions}, {facts['cpus']} cores, {facts['threads']} "
            f"thread a run, commit {commit[:7] + '+' * commit.endswith('+') if commit else '-'}"
        )
    return "; and ".join(dict.fromkeys(said))
