"""Results: one line of docs/results/<task>.jsonl for each finished run, and what is read from it.

A measure is a function of one Result. It is nan if the run does not have the metric.
"""

from __future__ import annotations

import fcntl
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, TypeAdapter

from asymrl.errors import UserError
from asymrl.evaluation.scores import pass_at_k
from asymrl.files import read_json, read_jsonl, sync_to_disk
from asymrl.report import runs
from asymrl.run.environment import previous_starts
from asymrl.statistics import finite_mean
from asymrl.types import frozen
from studies.jobs import TASKS, Job, folder_of

GROUP = 8  # rollouts of a group, for the unsolved share of held-out problems
EVERY = 5  # steps that are averaged into one number of a series
SERIES = (
    "reward/mean",
    "policy/entropy",
    "groups/all_solved",
    "groups/none_solved",
    "diag/kappa",
    "diag/logprob_gain_positive",
    "advantage/beta_pos",
    "advantage/beta_neg",
)
DIGITS = 5


Share = Annotated[float, Field(ge=0, le=1)]
# null in JSON is nan
Number = Annotated[float, BeforeValidator(lambda x: math.nan if x is None else x)]


@frozen
class Result:
    """One run. All accuracies are of held-out problems.

    greedy: step -> accuracy. tempered: accuracy at temperature 0.4 after training. solved: for each
    problem, how many of `samples` responses at temperature 1 are correct. series: metric -> means
    over every EVERY steps. pressure: channel -> group accuracy -> gradient mass per group.
    """

    task: str
    arm: str
    seed: Annotated[int, Field(strict=True)]
    settings: str
    greedy: Mapping[str, Share]
    tempered: Share
    samples: Annotated[int, Field(gt=0, strict=True)]
    solved: tuple[Annotated[int, Field(ge=0, strict=True)], ...]
    kappa_hat: Number
    series: Mapping[str, tuple[Number, ...]]
    pressure: Mapping[str, Mapping[str, float]]
    seconds: int
    date: str
    commit: str
    software: str


VALID = TypeAdapter(Result)
Seed = Mapping[str, Result]  # arm -> its run; all runs share one task and one seed
Measure = Callable[[Result], float]


# --- files


def evaluation_folder(job: Job, temperature: float, out: Path) -> Path:
    """Beside the evaluations of training, under a name that none of them has."""
    return folder_of(job, out) / "eval" / f"final-t{temperature:g}"


def read_run(job: Job, out: Path, seconds: float) -> Result:
    """The result of a finished run folder. UserError if steps are missing."""
    folder = folder_of(job, out)
    everything = [row for _, row in read_jsonl(folder / "metrics.jsonl")]
    rows = [
        {key: math.nan if value is None else value for key, value in row.items()}
        for row in everything
        if row["step"] >= 1
    ]
    if [row["step"] for row in rows] != list(range(1, len(rows) + 1)) or not rows:
        raise UserError(f"{folder}/metrics.jsonl must have every step once")
    benchmark = Path(job.benchmark).stem
    greedy = f"eval/{benchmark}/greedy/avg"
    cold, hot = (
        evaluation_folder(job, temperature, out) for temperature in TASKS[job.task].samples
    )
    correct: dict[str, list[bool]] = {}
    for _, row in read_jsonl(hot / f"{benchmark}.jsonl"):
        correct.setdefault(row["problem_id"], []).append(row["reason"] == "correct")
    facts = previous_starts(folder / "environment.json")[-1]
    packages = facts["packages"]
    return Result(
        task=job.task,
        arm=job.arm.name,
        seed=job.seed,
        settings=job.settings,
        greedy={str(row["step"]): row[greedy] for row in everything if greedy in row},
        tempered=read_json(cold / "summary.json")["benchmarks"][benchmark]["avg"],
        samples=len(next(iter(correct.values()))),
        solved=tuple(map(sum, correct.values())),
        kappa_hat=runs.kappa_hat(rows),
        series={name: averages([row.get(name, math.nan) for row in rows]) for name in SERIES},
        pressure={
            channel: {f"{p:g}": mass for p, mass in runs.gradient_mass(rows, channel).items()}
            for channel in ("positive", "negative")
        },
        seconds=round(seconds),
        date=time.strftime("%Y-%m-%d"),
        commit=facts["git_commit"] or "",
        software=f"Python {facts['python']}, torch {packages['torch']}, "
        f"transformers {packages['transformers']}",
    )


def averages(numbers: Sequence[float]) -> tuple[float, ...]:
    """The means of the finite numbers among every EVERY numbers."""
    return tuple(finite_mean(numbers[i : i + EVERY]) for i in range(0, len(numbers), EVERY))


def append(result: Result, folder: Path) -> None:
    """Add a line to <folder>/<task>.jsonl; several processes may do so at a time."""
    line = json.dumps(rounded(asdict(result)), separators=(",", ":")) + "\n"
    file = folder / f"{result.task}.jsonl"
    with file.open("ab+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if stream.tell() and not file.read_bytes().endswith(b"\n"):
            stream.write(b"\n")  # after a line that a killed process left incomplete
        stream.write(line.encode())
        stream.flush()
    sync_to_disk(file)


def rounded(value: Any) -> Any:
    """Floats with DIGITS decimals; null for nan."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value


def read_results(folder: Path, task: str) -> list[Result]:
    """UserError for a line that is not a result; an incomplete last line is skipped."""
    file = folder / f"{task}.jsonl"
    results = []
    for where, row in read_jsonl(file, drop_partial=True) if file.is_file() else ():
        try:
            one = VALID.validate_python(row)
            if one.task != task or not one.greedy or max(one.solved, default=99) > one.samples:
                raise ValueError("task, greedy, solved and samples do not fit together")
        except ValueError as error:
            lines = str(error).splitlines()
            problem = ": ".join(line.strip() for line in lines[1:3]) or lines[0]
            raise UserError(f"{where} is not a result of a study: {problem}") from None
        results.append(one)
    return results


def find_results(jobs: Sequence[Job], folder: Path) -> dict[Job, Result]:
    """The results of these jobs that exist: the last with the same task, arm, seed and settings."""
    found = {
        (one.task, one.arm, one.seed, one.settings): one
        for task in dict.fromkeys(job.task for job in jobs)
        for one in read_results(folder, task)
    }
    keys = {job: (job.task, job.arm.name, job.seed, job.settings) for job in jobs}
    return {job: found[key] for job, key in keys.items() if key in found}


def by_seed(results: Sequence[Result]) -> dict[int, Seed]:
    """The results of one task, by seed and arm."""
    seeds: dict[int, dict[str, Result]] = {}
    for one in results:
        seeds.setdefault(one.seed, {})[one.arm] = one
    return dict(sorted(seeds.items()))


# --- measures


def greedy(result: Result) -> float:
    """Greedy accuracy after training."""
    return list(result.greedy.values())[-1]


def greedy_late(result: Result) -> float:
    """The change of greedy accuracy over the last two fifths of the steps."""
    numbers = list(result.greedy.values())
    return numbers[-1] - numbers[-3]


def tempered(result: Result) -> float:
    """Accuracy at temperature 0.4 after training."""
    return result.tempered


def pass_at(result: Result, k: int) -> float:
    """pass@k at temperature 1 after training, from all samples."""
    return finite_mean([pass_at_k(result.samples, correct, k) for correct in result.solved])


def unsolved_hard(result: Result, untrained: Result) -> float:
    """The chance that none of GROUP responses at temperature 1 is correct, after training: its mean
    over the harder half of the held-out problems by the untrained policy of the same seed."""
    order = np.argsort(untrained.solved, kind="stable")[: len(untrained.solved) // 2]
    return finite_mean([1 - pass_at_k(result.samples, result.solved[i], GROUP) for i in order])


def along(result: Result, metric: str) -> float:
    """Mean of a metric over all steps."""
    return finite_mean(result.series[metric])


def at_the_end(result: Result, metric: str) -> float:
    """Mean of a metric over the last 10 steps."""
    return finite_mean(result.series[metric][-10 // EVERY :])


entropy = partial(along, metric="policy/entropy")
none_solved = partial(along, metric="groups/none_solved")
all_solved = partial(along, metric="groups/all_solved")
gain = partial(along, metric="diag/logprob_gain_positive")


def kappa_hat(result: Result) -> float:
    """Mean of kappa over the first 20 steps (Appendix E)."""
    return result.kappa_hat


def peak(result: Result, channel: str) -> float:
    """The group accuracy, 0 < p < 1, with the highest gradient mass per group; nan without any.

    The vertex of the parabola through the highest value and its two neighbours, so that the peak
    is not restricted to multiples of 1/G.
    """
    mass = {float(p): m for p, m in result.pressure[channel].items() if 0 < float(p) < 1}
    accuracies = sorted(mass)
    heights = [mass[p] for p in accuracies]
    if not any(heights):
        return math.nan
    top = int(np.argmax(heights))
    if not 0 < top < len(accuracies) - 1:
        return accuracies[top]
    x, y = np.array(accuracies[top - 1 : top + 2]), np.array(heights[top - 1 : top + 2])
    a, b, _ = np.polyfit(x - x[1], y, 2)
    return float(x[1] - b / (2 * a)) if a < 0 else float(x[1])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of y over x."""
    centred = np.asarray(x) - np.mean(x)
    return float(centred @ np.asarray(y) / (centred @ centred))
