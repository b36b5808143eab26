"""Evaluates a model on benchmarks: generate, verify, save, score. Used by training and by eval.py.

Knows the protocols of engines and verifiers; nothing about training. scores.py defines the numbers,
results_folder.py the files.
"""

from __future__ import annotations

import math
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
from asymrl.evaluation.scores import Scores
from asymrl.run.tracking import Tracker
from asymrl.statistics import MeanEstimate, mean_of_estimates
from asymrl.training.rollout import Progress, generate_and_verify, sample_rows
from asymrl.types import Problem, Request, Sampling, derive_seed
from asymrl.verifiers import Verifier


def evaluate(
    engine: Callable[[], RolloutEngine],
    verifier: Verifier,
    benchmarks: Mapping[str, Sequence[Problem]],
    *,
    samples: Callable[[str], int],
    sampling: Sampling,
    seed: int,
    folder: Path,
    world: World,
    progress: Progress = lambda done, total: None,
    chunk: int | None = None,
    settings: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> list[Scores]:
    """Score every benchmark; write <benchmark>.jsonl (every sample) and summary.json to `folder`.

    engine: a factory, called only if samples are missing. samples: samples a problem, by benchmark
    name. chunk: samples of each engine between two saves; None: a whole benchmark.

    settings: everything that the samples depend on. With it, existing samples are reused; if they
    have other settings, UserError is raised, or with `replace` they are deleted once the engine has
    loaded. Without it (in training), existing samples are deleted.

    A sample's seed depends on (seed, benchmark, problem, sample) only, so two evaluations differ by
    their weights only. Chunk borders do not depend on existing samples, so a resumed evaluation
    generates what an uninterrupted one would have.
    """
    requests = {
        name: make_requests(name, problems, samples(name), seed)
        for name, problems in benchmarks.items()
    }
    engines = world.size // world.tensor_parallel
    chunks = {  # in problems
        name: max(1, chunk * engines // part[0].samples) if chunk else len(part)
        for name, part in requests.items()
    }
    with (
        world.rank_zero_first()
    ):  # rank 0 truncates half-written files before the other ranks read them
        resume = settings is not None and results_folder.can_resume(
            folder, settings, replace=replace
        )
        rows = existing_rows(folder, requests, chunks, settings, resume, is_first=world.first)
    total = sum(request.samples for part in requests.values() for request in part)
    done = sum(map(len, rows.values()))
    progress(done, total)
    if done < total:
        generate = partial(
            generate_and_verify, engine=engine(), verifier=verifier, sampling=sampling, world=world
        )
        if settings is not None and world.first:
            results_folder.record_settings(folder, settings, replace=not resume)
        for name, chunk_requests in missing_chunks(requests, chunks, rows):
            count = sum(request.samples for request in chunk_requests)
            report = partial(report_progress, progress, done, count, total)
            new_rows = list(sample_rows(chunk_requests, *generate(chunk_requests, report)))
            if world.first:
                results_folder.append_rows(folder / f"{name}.jsonl", new_rows)
            rows[name] += new_rows
            done += count
    results = [score_rows(name, rows[name], part[0].samples) for name, part in requests.items()]
    if world.first:
        results_folder.write_summary(folder, summary(results, sampling, seed))
    return results


def make_requests(name: str, problems: Sequence[Problem], samples: int, seed: int) -> list[Request]:
    return [
        Request(problem=problem, draw=n, samples=samples, seed=derive_seed(seed, "eval", name, n))
        for n, problem in enumerate(problems)
    ]


def existing_rows(
    folder: Path,
    requests: Mapping[str, Sequence[Request]],
    chunks: Mapping[str, int],
    settings: Mapping[str, Any] | None,
    resume: bool,
    *,
    is_first: bool,
) -> dict[str, list[SampleRow]]:
    """The rows that need not be generated again, by benchmark; without settings the files are
    deleted.

    Rows are reused in whole chunks, since with vLLM tokens depend on the batch. With hf they do
    not, and every complete problem is reused.
    """
    files = {name: folder / f"{name}.jsonl" for name in requests}
    if settings is None and is_first:
        for file in files.values():
            file.unlink(missing_ok=True)
    if settings is None or not resume:
        return {name: [] for name in requests}
    by_problem = settings.get("engine") == "hf"
    return {
        name: results_folder.reusable_rows(
            files[name], part, 1 if by_problem else chunks[name], truncate=is_first
        )
        for name, part in requests.items()
    }


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


def score_rows(name: str, rows: Sequence[SampleRow], samples: int) -> Scores:
    results = [scores.sample_result(row) for row in rows]
    groups = [results[i : i + samples] for i in range(0, len(results), samples)]
    return scores.score_benchmark(name, groups)


def summary(results: Sequence[Scores], sampling: Sampling, seed: int) -> dict[str, Any]:
    """The content of summary.json. mean: over the benchmarks; empty without any."""
    means = {}
    if results:
        for name in ("avg", "majority"):
            overall = mean_of_estimates([getattr(one, name) for one in results])
            means[name] = scores.with_interval(overall, "value")
    return {
        "sampling": asdict(sampling),
        "seed": seed,
        "benchmarks": {one.benchmark: scores.summary_of(one) for one in results},
        "mean": means,
    }


def evaluate_step(
    step: int, *, run_dir: Path, tracker: Tracker, engine: RolloutEngine, **arguments: Any
) -> dict[str, float]:
    """`evaluate` during training: into eval/step-N of the run folder; returns metrics."""
    return metrics(
        evaluate(
            lambda: engine,
            folder=run_dir / "eval" / f"step-{step:06d}",
            progress=partial(tracker.phase, "evaluate"),
            **arguments,
        )
    )


def metrics(results: Sequence[Scores]) -> dict[str, float]:
    metrics = {}
    for one in results:
        metrics |= {
            f"eval/{one.benchmark}/avg": one.avg.value,
            f"eval/{one.benchmark}/stderr": one.avg.stderr,
            f"eval/{one.benchmark}/pass_at_k": one.pass_at[one.samples].value,
            f"eval/{one.benchmark}/truncated": one.truncated.value,
        }
    return metrics


def results_table(results: Sequence[Scores]) -> Table:
    """One row a benchmark, and the mean over them; percent, with standard errors."""
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


def percent(one: MeanEstimate) -> str:
    stderr = f" ± {100 * one.stderr:.2f}" if math.isfinite(one.stderr) else ""
    return f"{100 * one.value:.2f}{stderr}"
