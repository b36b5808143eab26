"""Evaluates a model on benchmarks: generate, verify, save, score. Used by training and by eval.py.

Knows the protocols of engines and verifiers; nothing about training. scores.py defines the numbers,
results_folder.py the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from asymrl.engines.distributed import World
from asymrl.engines.rollout import RolloutEngine
from asymrl.evaluation import results_folder, scores
from asymrl.evaluation.results_folder import SampleRow
from asymrl.evaluation.scores import Scores, percent
from asymrl.run.tracking import Tracker
from asymrl.statistics import mean_of_estimates
from asymrl.training.rollout import Progress, generate_and_verify, sample_rows
from asymrl.types import Problem, Request, Rollout, Sampling, Verdict, derive_seed, frozen
from asymrl.verifiers import Verifier


@frozen
class EvalTask:
    """What to evaluate. benchmarks: name -> problems; samples: name -> samples per problem.

    A sample's seed depends on (seed, benchmark, problem, sample) only, so two models that are
    evaluated with the same settings use the same random numbers.
    """

    benchmarks: Mapping[str, Sequence[Problem]]
    samples: Mapping[str, int]
    sampling: Sampling
    seed: int

    def requests(self) -> dict[str, list[Request]]:
        return {
            name: [
                Request(
                    problem=problem,
                    draw=n,
                    samples=self.samples[name],
                    seed=derive_seed(self.seed, "eval", name, n),
                )
                for n, problem in enumerate(problems)
            ]
            for name, problems in self.benchmarks.items()
        }


@frozen
class Resumable:
    """How samples are saved and reused.

    settings: everything that they depend on. chunk: samples of all engines in a call, after which
    they are saved. replace: delete samples that have other settings, once the engine has loaded.
    """

    settings: Mapping[str, Any]
    chunk: int
    replace: bool = False


def evaluate(
    task: EvalTask,
    engine: Callable[[], RolloutEngine],
    verifier: Verifier,
    world: World,
    folder: Path,
    *,
    progress: Progress = lambda done, total: None,
    resumable: Resumable | None = None,
) -> list[Scores]:
    """Score every benchmark; write <benchmark>.jsonl (every sample) and summary.json to `folder`.

    engine: a factory, called only if samples are missing. With `resumable`, the samples in the
    folder are reused; UserError if they have other settings, unless they are replaced. Without it
    (in training), they are deleted, and the engine generates all benchmarks in one call.

    A call is generated as if no samples existed, since with vLLM tokens depend on all of its
    requests; samples that exist are then dropped. With hf tokens do not depend on other requests,
    and only missing problems are generated.
    """
    requests = task.requests()
    rows: dict[str, list[SampleRow]] = {name: [] for name in requests}
    reuse, only_missing = False, False
    with world.rank_zero_first():  # rank 0 truncates half-written files before others read them
        if resumable and results_folder.can_resume(folder, resumable.settings, resumable.replace):
            reuse, only_missing = True, resumable.settings.get("engine") == "hf"
            for name, part in requests.items():
                file = folder / f"{name}.jsonl"
                rows[name] = results_folder.reusable_rows(file, part, truncate=world.first)
    total = sum(request.samples for part in requests.values() for request in part)
    done = sum(map(len, rows.values()))
    progress(done, total)
    if done < total:
        generate = partial(
            generate_and_verify,
            engine=engine(),
            verifier=verifier,
            sampling=task.sampling,
            world=world,
        )
        if world.first and not reuse:
            results_folder.remove_samples(folder, requests)
        if world.first and resumable:
            results_folder.record_settings(folder, resumable.settings)
        complete = {name: len(rows[name]) // part[0].samples for name, part in requests.items()}
        for call in engine_calls(requests, resumable.chunk if resumable else total):
            missing = [each for each in call if each[1].draw >= complete[each[0]]]
            if not missing:
                continue
            count = sum(request.samples for _, request in missing)
            report = partial(report_progress, progress, done, count, total)
            for name, new in generate_call(missing if only_missing else call, generate, report):
                new_rows = [row for row in new if row["draw"] >= complete[name]]
                if world.first:
                    results_folder.append_rows(folder / f"{name}.jsonl", new_rows)
                rows[name] += new_rows
            done += count
    results = [
        scores.score_benchmark(name, rows[name], part[0].samples) for name, part in requests.items()
    ]
    if world.first:
        results_folder.write_summary(folder, summary(results, task))
    return results


Call = list[tuple[str, Request]]
"""Requests that an engine generates at a time, each with the name of its benchmark."""


def engine_calls(requests: Mapping[str, Sequence[Request]], chunk: int) -> Iterator[Call]:
    """All requests in order, at most `chunk` samples a call, but at least one request."""
    call: Call = []
    count = 0
    for name, part in requests.items():
        for request in part:
            if call and count + request.samples > chunk:
                yield call
                call, count = [], 0
            call.append((name, request))
            count += request.samples
    if call:
        yield call


def generate_call(
    call: Call,
    generate: Callable[..., tuple[list[Rollout], list[Verdict]]],
    report: Progress,
) -> Iterator[tuple[str, list[SampleRow]]]:
    """(benchmark, its new rows) for each benchmark of a call."""
    numbered = [replace(request, draw=n) for n, (_, request) in enumerate(call)]
    by_benchmark: dict[str, list[SampleRow]] = {}
    for row in sample_rows(numbered, *generate(numbered, report)):
        name, request = call[row["draw"]]
        by_benchmark.setdefault(name, []).append({**row, "draw": request.draw})
    yield from by_benchmark.items()


def report_progress(
    progress: Progress, before: int, count: int, total: int, rank_done: int, rank_count: int
) -> None:
    """Scale this rank's progress to all ranks: a call adds `count` samples, and this rank generates
    `rank_count`."""
    progress(before + rank_done * count // max(1, rank_count), total)


def summary(results: Sequence[Scores], task: EvalTask) -> dict[str, Any]:
    """The content of summary.json. mean: over the benchmarks; empty without any."""
    means = {}
    if results:
        for name in ("avg", "majority"):
            overall = mean_of_estimates([getattr(one, name) for one in results])
            means[name] = scores.with_interval(overall, "value")
    return {
        "sampling": asdict(task.sampling),
        "seed": task.seed,
        "benchmarks": {one.benchmark: scores.summary_of(one) for one in results},
        "mean": means,
    }


def evaluate_step(
    step: int,
    *,
    run_dir: Path,
    tracker: Tracker,
    engine: RolloutEngine,
    verifier: Verifier,
    world: World,
    tasks: Mapping[str, Mapping[str, Any]],
) -> dict[str, float]:
    """Evaluate during training, into eval/step-N/<setting> of the run folder. Returns metrics.

    tasks: name of the setting -> the fields of its EvalTask.
    """
    scored = {}
    for setting, task in tasks.items():
        folder = run_dir / "eval" / f"step-{step:06d}" / setting
        progress = partial(tracker.phase, "evaluate")
        results = evaluate(
            EvalTask(**task), lambda: engine, verifier, world, folder, progress=progress
        )
        scored |= metrics(results, setting)
    return scored


def metrics(results: Sequence[Scores], setting: str) -> dict[str, float]:
    metrics = {}
    for one in results:
        name = f"eval/{one.benchmark}/{setting}"
        metrics |= {
            f"{name}/avg": one.avg.value,
            f"{name}/stderr": one.avg.stderr,
            f"{name}/pass_at_k": one.pass_at[one.samples].value,
            f"{name}/truncated": one.truncated.value,
        }
    return metrics


def results_table(results: Sequence[Scores]) -> Table:
    """One row per benchmark, and the mean over them; percent, with standard errors."""
    columns = ("avg@k", "pass@k", "maj@k", "k", "problems", "truncated", "no answer", "tokens")
    table = Table(Column("benchmark", no_wrap=True), *(Column(c, justify="right") for c in columns))
    for one in results:
        table.add_row(
            escape(one.benchmark),
            percent(one.avg),
            percent(one.pass_at[one.samples]),
            percent(one.majority),
            str(one.samples),
            str(one.problems),
            f"{100 * one.truncated.value:.1f}",
            f"{100 * one.no_answer.value:.1f}",
            f"{one.length.value:.0f}",
        )
    if len(results) > 1:
        table.add_section()
        avg = mean_of_estimates([one.avg for one in results])
        majority = mean_of_estimates([one.majority for one in results])
        table.add_row("mean", percent(avg), "", percent(majority))
    return table
