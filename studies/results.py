"""Reads finished runs: metrics of every step, accuracies and software versions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

from asymrl.errors import UserError
from asymrl.files import read_json, read_jsonl
from asymrl.run.environment import previous_starts
from asymrl.statistics import finite_mean
from asymrl.types import frozen
from studies.jobs import Job
from studies.runs import TEMPERATURES, summary_file


def save_figure(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})
    return file


@frozen
class Result:
    """One run. rows: metrics of steps 1 to the last, nan for null. accuracy: temperature -> avg@k
    of the last checkpoint, the mean over its benchmarks."""

    rows: tuple[Mapping[str, float], ...]
    accuracy: Mapping[float, float]


Seed = Mapping[str, Result]  # arm -> its run; all runs share one seed and one mix


def read(job: Job) -> Result:
    """UserError if steps are missing."""
    rows = [row for row in metrics(job.folder) if 1 <= row["step"] <= job.steps]
    if [row["step"] for row in rows] != list(range(1, job.steps + 1)):
        raise UserError(f"{job.folder}/metrics.jsonl must have the steps 1 to {job.steps}")
    scores = {t: read_scores(summary_file(job, t)) for t in TEMPERATURES}
    return Result(
        rows=tuple(rows),
        accuracy={
            t: finite_mean([b["avg"] for b in by_name.values()]) for t, by_name in scores.items()
        },
    )


def by_seed(jobs: Sequence[Job], mix: str) -> list[Seed]:
    """The runs of a mix, one entry a seed."""
    seeds: dict[int, dict[str, Result]] = {}
    for job in jobs:
        if job.mix == mix:
            seeds.setdefault(job.seed, {})[job.arm.name] = read(job)
    return [seeds[seed] for seed in sorted(seeds)]


def metrics(folder: Path) -> Iterator[dict[str, float]]:
    for _, row in read_jsonl(folder / "metrics.jsonl"):
        yield {key: math.nan if value is None else value for key, value in row.items()}


def read_scores(summary: Path) -> dict[str, dict[str, float]]:
    """benchmark -> its scores, from a summary.json of eval.py."""
    benchmarks = read_json(summary).get("benchmarks")
    if not isinstance(benchmarks, dict):
        raise UserError(f"{summary} has no `benchmarks`; it is not a summary.json of eval.py")
    return benchmarks


def column(result: Result, metric: str) -> list[float]:
    return [row.get(metric, math.nan) for row in result.rows]


def average(result: Result, metric: str) -> float:
    """Mean of a metric over the steps that have it."""
    return finite_mean(column(result, metric))


def at_the_end(result: Result, metric: str, steps: int = 10) -> float:
    """Mean over the last steps."""
    return finite_mean(column(result, metric)[-steps:])


def per_seed(seeds: Sequence[Seed], arm: str, measure: Callable[[Result], float]) -> list[float]:
    """A measure of one arm, one number a seed."""
    return [measure(seed[arm]) for seed in seeds]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def ran_on(jobs: Sequence[Job]) -> str:
    """The software and hardware recorded by the runs, in words; all variants if they differ."""
    lines = []
    for job in jobs:
        file = job.folder / "environment.json"
        if not (starts := previous_starts(file)):
            raise UserError(f"{file} does not exist or is empty")
        facts = starts[-1]
        versions = ", ".join(f"{n} {facts['packages'][n]}" for n in ("torch", "transformers"))
        commit = facts["git_commit"]
        lines.append(
            f"Python {facts['python']}, {versions}, {facts['cpus']} cores, {facts['threads']} "
            f"thread a run, commit {commit[:7] + '+' * commit.endswith('+') if commit else '-'}"
        )
    return "; and ".join(dict.fromkeys(lines))
