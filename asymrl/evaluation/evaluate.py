"""Benchmarks: sample, verify, keep, count. Used by the loop and by eval.py.

Knows an engine and a verifier by their protocols; nothing of training. What the numbers are is
scores.py, where the samples lie samples.py.
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
from asymrl.evaluation import results_folder as stored
from asymrl.evaluation import scores
from asymrl.evaluation.scores import Estimate, Scores
from asymrl.run.tracking import Tracker
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
    """Score every benchmark; summary.json and <benchmark>.jsonl (every sample) go to `folder`.

    engine: makes one, and is called only where samples are missing. samples: how many a problem, by
    the benchmark's name. chunk: samples of each engine between two saves; None: a benchmark at a
    time. settings: what the samples depend on; with it, samples that are there are gone on from
    (UserError where they are of other settings, or with replace they go, once there is an engine to
    draw others); without, drawn anew.
    Samples' seeds depend on (seed, benchmark, problem, sample) alone, so two evaluations differ by
    the weights alone; and chunks do not depend on what was there, so one that was killed and
    started again draws what an uninterrupted one would have.
    """
    asked = {
        name: requests_of(name, problems, samples(name), seed)
        for name, problems in benchmarks.items()
    }
    engines = world.size // world.tensor_parallel
    sizes = {
        name: max(1, chunk * engines // requests[0].samples) if chunk else len(requests)
        for name, requests in asked.items()
    }
    with world.in_turn():  # the first cuts off what was half-written, then all read
        ours = settings is None or stored.usable(folder, settings, replace=replace)
        rows = begun(folder, asked, sizes, settings, first=world.first, ours=ours)
    total = sum(request.samples for requests in asked.values() for request in requests)
    done = sum(map(len, rows.values()))
    progress(done, total)
    making = {"verifier": verifier, "sampling": sampling, "world": world}
    if done < total:
        making["engine"] = engine()
        if settings is not None and world.first:
            stored.record_settings(folder, settings, anew=not ours)
    for name, requests in asked.items():
        for first in range(len(rows[name]) // requests[0].samples, len(requests), sizes[name]):
            part = requests[first : first + sizes[name]]
            drawn = sum(request.samples for request in part)
            told = partial(tell, progress, done, drawn, total)
            new = list(sample_rows(part, *generate_and_verify(part, told, **making)))
            if world.first:
                stored.append(folder / f"{name}.jsonl", new)
            rows[name] += new
            done += drawn
    results = [scored(name, rows[name], requests) for name, requests in asked.items()]
    if world.first:
        stored.write_summary(folder, summary(results, sampling, seed))
    return results


def begun(
    folder: Path,
    asked: Mapping[str, Sequence[Request]],
    sizes: Mapping[str, int],
    settings: Mapping[str, Any] | None,
    *,
    first: bool,
    ours: bool,
) -> dict[str, list[stored.Row]]:
    """The samples that need not be drawn, by benchmark: whole chunks of `sizes` problems; with hf,
    whose tokens do not depend on the chunk, whole problems. ours: what is there may be used."""
    if not ours:
        return {name: [] for name in asked}
    alone = settings is not None and settings.get("engine") == "hf"
    if first and settings is None:
        for name in asked:
            (folder / f"{name}.jsonl").unlink(missing_ok=True)
    return {
        name: stored.reusable_rows(
            folder / f"{name}.jsonl", requests, 1 if alone else sizes[name], cut=first
        )
        for name, requests in asked.items()
    }


def requests_of(name: str, problems: Sequence[Problem], samples: int, seed: int) -> list[Request]:
    return [
        Request(problem=problem, draw=n, samples=samples, seed=derive_seed(seed, "eval", name, n))
        for n, problem in enumerate(problems)
    ]


def tell(progress: Progress, before: int, drawn: int, total: int, done: int, mine: int) -> None:
    """A rank's own count stands for all: of `drawn` samples it does `mine`."""
    progress(before + done * drawn // max(1, mine), total)


def scored(name: str, rows: Sequence[Mapping[str, Any]], requests: Sequence[Request]) -> Scores:
    found, k = [scores.sample_of(row) for row in rows], requests[0].samples
    return scores.score(name, [found[i : i + k] for i in range(0, len(found), k)])


def summary(results: Sequence[Scores], sampling: Sampling, seed: int) -> dict[str, Any]:
    """summary.json. mean: over the benchmarks, where there are any."""
    means = {
        name: scores.sure(scores.over_benchmarks(of_all), "value")
        for name, of_all in (
            ("avg", [one.avg for one in results]),
            ("majority", [one.majority for one in results]),
        )
        if of_all
    }
    return {
        "sampling": asdict(sampling),
        "seed": seed,
        "benchmarks": {one.benchmark: scores.flat(one) for one in results},
        "mean": means,
    }


def at_step(
    step: int, *, run: Path, tracker: Tracker, engine: RolloutEngine, **arguments: Any
) -> dict[str, float]:
    """`evaluate` during training: into eval/step-N of the run, as metrics."""
    return metrics(
        evaluate(
            lambda: engine,
            folder=run / "eval" / f"step-{step:06d}",
            progress=partial(tracker.phase, "evaluate"),
            **arguments,
        )
    )


def table(results: Sequence[Scores]) -> Table:
    """One row a benchmark, and the mean over them; percent, with standard errors."""
    columns = ("avg@k", "pass@k", "maj@k", "k", "problems", "cut off", "no answer", "tokens")
    drawn = Table(Column("benchmark", no_wrap=True), *(Column(c, justify="right") for c in columns))
    for one in results:
        drawn.add_row(
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
        drawn.add_section()
        avg = scores.over_benchmarks([one.avg for one in results])
        most = scores.over_benchmarks([one.majority for one in results])
        drawn.add_row("mean", percent(avg), "", percent(most))
    return drawn


def percent(one: Estimate) -> str:
    error = f" ± {100 * one.stderr:.2f}" if math.isfinite(one.stderr) else ""
    return f"{100 * one.value:.2f}{error}"


def metrics(results: Sequence[Scores]) -> dict[str, float]:
    found = {}
    for one in results:
        found |= {
            f"eval/{one.benchmark}/avg": one.avg.value,
            f"eval/{one.benchmark}/stderr": one.avg.stderr,
            f"eval/{one.benchmark}/pass_at_k": one.pass_at[one.samples].value,
            f"eval/{one.benchmark}/truncated": one.truncated.value,
        }
    return found
