"""Evaluates a model on benchmarks: generate, verify, save, score. Used by training and by eval.py.

Knows the protocols of engines and verifiers; nothing about training. scores.py defines the numbers,
results_folder.py the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
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
from asymrl.types import Problem, Request, Sampling, derive_seed, frozen
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

    settings: everything that they depend on. chunk: samples of all engines between two saves.
    replace: delete samples that have other settings, once the engine has loaded.
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
    (in training), they are deleted.

    Chunk borders do not depend on existing samples, so a resumed evaluation generates what an
    uninterrupted one would have. Rows are reused in whole chunks, since with vLLM tokens depend on
    the batch. With hf they do not, and every complete problem is reused.
    """
    requests = task.requests()
    chunks = {  # in problems
        name: max(1, resumable.chunk // part[0].samples) if resumable else len(part)
        for name, part in requests.items()
    }
    rows: dict[str, list[SampleRow]] = {name: [] for name in requests}
    reuse = False
    with world.rank_zero_first():  # rank 0 truncates half-written files before others read them
        if resumable and results_folder.can_resume(folder, resumable.settings, resumable.replace):
            reuse, is_hf = True, resumable.settings.get("engine") == "hf"
            for name, part in requests.items():
                file, chunk = folder / f"{name}.jsonl", 1 if is_hf else chunks[name]
                rows[name] = results_folder.reusable_rows(file, part, chunk, truncate=world.first)
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
        for name, chunk_requests in missing_chunks(requests, chunks, rows):
            count = sum(request.samples for request in chunk_requests)
            report = partial(report_progress, progress, done, count, total)
            new_rows = list(sample_rows(chunk_requests, *generate(chunk_requests, report)))
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


def missing_chunks(
    requests: Mapping[str, Sequence[Request]],
    chunks: Mapping[str, int],
    rows: Mapping[str, Sequence[SampleRow]],
) -> list[tuple[str, Sequence[Request]]]:
    """(benchmark, its next requests) for everything that has no rows yet."""
    return [
        (name, part[start : start + chunks[name]])
        for name, part in requests.items()
        for start in range(len(rows[name]) // part[0].samples, len(part), chunks[name])
    ]


def report_progress(
    progress: Progress, before: int, count: int, total: int, rank_done: int, rank_count: int
) -> None:
    """Scale this rank's progress to all ranks: a chunk has `count` samples, this rank `rank_count`
    of them."""
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
