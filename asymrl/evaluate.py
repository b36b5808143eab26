"""avg@k and pass@k with standard errors: sample, verify, count. Used by the loop and by eval.py.

Knows an engine and a verifier by their protocols; nothing of training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from asymrl.engines.rollout import RolloutEngine, derive_seed
from asymrl.engines.world import World
from asymrl.files import write_atomically
from asymrl.tracking import Tracker
from asymrl.types import Problem, Request, Rollout, Sampling, Verdict, value
from asymrl.verifiers import Verifier

Progress = Callable[[int, int], None]  # done, total


def roll_out(
    requests: Sequence[Request],
    progress: Progress = lambda done, total: None,
    waiting: AbstractContextManager[None] = nullcontext(),  # noqa: B008, it does nothing
    *,
    engine: RolloutEngine,
    verifier: Verifier,
    sampling: Sampling,
    world: World,
) -> tuple[list[Rollout], list[Verdict]]:
    """Generate and verify; a response goes to the verifier as soon as it is finished.

    Each rank does its share of the requests (and tells its own progress); all get all results,
    sorted by (draw, sample), so that nothing after this depends on the order of finishing.
    `waiting` is entered when all is generated and verdicts are still to come.
    """
    golds = {request.draw: request.problem.gold for request in requests}
    mine = world.share(requests)
    total = sum(request.samples for request in mine)
    pending = []
    for rollout in engine.generate(mine, sampling):
        if world.leads:
            pending.append((rollout, verifier.submit(golds[rollout.draw], rollout.text)))
            progress(len(pending), total)
    with waiting:
        judged = [(rollout, verdict.result()) for rollout, verdict in pending]
    everyone = [pair for part in world.gather(judged) for pair in part]
    everyone.sort(key=lambda pair: (pair[0].draw, pair[0].sample))
    return [rollout for rollout, _ in everyone], [verdict for _, verdict in everyone]


@value
class Scores:
    """One benchmark's result. stderr is over problems: the standard deviation of the problems'
    means, divided by the root of their number (samples of one problem are not independent).
    """

    benchmark: str
    avg: float
    stderr: float
    pass_at_k: float  # k = samples
    problems: int
    samples: int
    truncated: float
    no_answer: float
    length_mean: float


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, Eq. 1); k <= n."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def score(
    benchmark: str, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict], samples: int
) -> Scores:
    """rollouts, verdicts: `samples` consecutive ones a problem."""
    rewards = [verdict.reward for verdict in verdicts]
    correct = [sum(rewards[i : i + samples]) for i in range(0, len(rewards), samples)]
    means = [count / samples for count in correct]
    avg = sum(means) / len(means)
    variance = sum((mean - avg) ** 2 for mean in means) / max(1, len(means) - 1)
    return Scores(
        benchmark=benchmark,
        avg=avg,
        stderr=math.sqrt(variance / len(means)),
        pass_at_k=sum(pass_at_k(samples, int(count), samples) for count in correct) / len(means),
        problems=len(means),
        samples=samples,
        truncated=sum(rollout.truncated for rollout in rollouts) / len(rollouts),
        no_answer=sum(verdict.reason == "no_answer" for verdict in verdicts) / len(verdicts),
        length_mean=sum(len(rollout.token_ids) for rollout in rollouts) / len(rollouts),
    )


def evaluate(
    engine: RolloutEngine,
    verifier: Verifier,
    benchmarks: Mapping[str, Sequence[Problem]],
    *,
    samples: Callable[[str], int],
    sampling: Sampling,
    seed: int,
    folder: Path,
    world: World,
    progress: Progress = lambda done, total: None,
) -> list[Scores]:
    """Score every benchmark; summary.json and <benchmark>.jsonl (every sample) go to `folder`.

    samples: how many a problem, by the benchmark's name.
    The samples' seeds do not depend on the training step, so that two evaluations differ by the
    weights alone.
    """
    results = []
    for name, problems in benchmarks.items():
        requests = [
            Request(
                problem=problem,
                draw=n,
                samples=samples(name),
                seed=derive_seed(seed, "eval", name, n),
            )
            for n, problem in enumerate(problems)
        ]
        rollouts, verdicts = roll_out(
            requests,
            engine=engine,
            verifier=verifier,
            sampling=sampling,
            world=world,
            progress=progress,
        )
        results.append(score(name, rollouts, verdicts, samples(name)))
        if not world.first:
            continue
        lines = [json.dumps(row) for row in sample_rows(requests, rollouts, verdicts)]
        write_atomically(folder / f"{name}.jsonl", "".join(line + "\n" for line in lines))
    summary = {
        "sampling": asdict(sampling),
        "seed": seed,
        "benchmarks": {scores.benchmark: asdict(scores) for scores in results},
    }
    if world.first:
        write_atomically(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return results


def at_step(
    step: int, *, run: Path, tracker: Tracker, engine: RolloutEngine, **arguments: Any
) -> dict[str, float]:
    """`evaluate` during training: into eval/step-N of the run, as metrics."""
    return metrics(
        evaluate(
            engine,
            folder=run / "eval" / f"step-{step:06d}",
            progress=partial(tracker.phase, "evaluate"),
            **arguments,
        )
    )


def sample_rows(
    requests: Sequence[Request], rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]
) -> Iterator[dict[str, Any]]:
    """One readable row a rollout: what rollouts/ and eval/ hold."""
    by_draw = {request.draw: request.problem for request in requests}
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        problem = by_draw[rollout.draw]
        yield {
            "draw": rollout.draw,
            "sample": rollout.sample,
            "problem_id": problem.id,
            "problem": problem.meta.get("problem", problem.prompt_text),
            "prompt": problem.prompt_text,
            "gold": problem.gold,
            "response": rollout.text,
            "answer": verdict.answer,
            "reason": verdict.reason,
            "reward": verdict.reward,
            "truncated": rollout.truncated,
            "tokens": len(rollout.token_ids),
        }


def table(results: Sequence[Scores]) -> Table:
    """One row a benchmark, and the mean over them; percent, with standard errors."""
    columns = ("avg@k", "pass@k", "k", "problems", "cut off", "no answer")
    drawn = Table(Column("benchmark", no_wrap=True), *columns)
    for one in results:
        drawn.add_row(
            one.benchmark,
            f"{100 * one.avg:.2f} ± {100 * one.stderr:.2f}",
            f"{100 * one.pass_at_k:.2f}",
            str(one.samples),
            str(one.problems),
            f"{100 * one.truncated:.1f}",
            f"{100 * one.no_answer:.1f}",
        )
    if len(results) > 1:
        drawn.add_section()
        drawn.add_row("mean", f"{100 * sum(one.avg for one in results) / len(results):.2f}")
    return drawn


def metrics(results: Sequence[Scores]) -> dict[str, float]:
    return {
        f"eval/{scores.benchmark}/{name}": number
        for scores in results
        for name, number in asdict(scores).items()
        if name in ("avg", "stderr", "pass_at_k", "truncated")
    }
