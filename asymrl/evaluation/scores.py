"""Scores of a benchmark: avg@k, pass@k and majority@k with their standard errors.

Knows verdicts and answers as text; no files and no models. Samples of one problem are not
independent, so every standard error is over problems, which count as drawn from all problems of
their kind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from asymrl.statistics import MeanEstimate, estimate_mean, finite_mean
from asymrl.types import frozen
from asymrl.verifiers import exact

CORRECT_VOTE = "correct"
Row = Mapping[str, Any]  # of <benchmark>.jsonl


@frozen
class Scores:
    """One benchmark's result. pass_at: k -> pass@k, for k = 1, 2, 4, ... and `samples`."""

    benchmark: str
    problems: int
    samples: int
    avg: MeanEstimate
    pass_at: Mapping[int, MeanEstimate]
    majority: MeanEstimate
    truncated: MeanEstimate
    no_answer: MeanEstimate
    length: MeanEstimate


def score_benchmark(benchmark: str, rows: Sequence[Row], samples: int) -> Scores:
    """rows: those of <benchmark>.jsonl, `samples` of each problem, problem by problem."""
    assert len(rows) % samples == 0, (len(rows), samples)
    groups = [rows[i : i + samples] for i in range(0, len(rows), samples)]
    assert all(len({row["problem_id"] for row in group}) == 1 for group in groups)
    correct = [sum(is_correct(row) for row in group) for group in groups]

    def per_problem(value: Callable[[Row], float]) -> MeanEstimate:
        return estimate_mean([finite_mean([value(row) for row in group]) for group in groups])

    return Scores(
        benchmark=benchmark,
        problems=len(groups),
        samples=samples,
        avg=per_problem(is_correct),
        pass_at={
            k: estimate_mean([pass_at_k(samples, c, k) for c in correct]) for k in ks(samples)
        },
        majority=estimate_mean([majority(group) for group in groups]),
        truncated=per_problem(lambda row: row["truncated"]),
        no_answer=per_problem(lambda row: row["reason"] == "no_answer"),
        length=per_problem(lambda row: row["tokens"]),
    )


def is_correct(row: Row) -> bool:
    return row["reason"] == "correct"


def ks(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples, and that number."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})


@lru_cache(maxsize=100_000)
def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, Eq. 1); k <= n."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(group: Sequence[Row]) -> float:
    """1 if the most frequent answer to a problem is correct, else 0; 1/t if t answers tie and one
    of them is correct (the expectation of picking one of them at random).

    All correct answers count as one answer. Wrong answers count as one if they are the same number
    or are written alike up to notation (exact.normalise). Wrong answers that only algebra shows to
    be equal count separately, so the score can be slightly too high, never too low. A sample
    without an answer has no vote; without any votes the score is 0.
    """
    votes = Counter(vote for row in group if (vote := vote_of(row)) is not None)
    most = max(votes.values(), default=0)
    tied = [vote for vote, count in votes.items() if count == most]
    return (CORRECT_VOTE in tied) / len(tied) if tied else 0.0


def vote_of(row: Row) -> Hashable:
    """The key under which a sample's answer is counted; None without an answer."""
    if is_correct(row):
        return CORRECT_VOTE
    if row["reason"] == "no_answer" or row["answer"] is None:
        return None
    number = exact.number(row["answer"])
    return ("wrong", exact.normalise(row["answer"]) if number is None else number)


def summary_of(scores: Scores) -> dict[str, Any]:
    """The entry of a benchmark in summary.json; null for what is not finite. pass_at_k: k =
    samples."""
    estimates = {
        "pass_at_k": scores.pass_at[scores.samples],
        "majority": scores.majority,
        "truncated": scores.truncated,
        "no_answer": scores.no_answer,
        "length_mean": scores.length,
    }
    return {
        "benchmark": scores.benchmark,
        "problems": scores.problems,
        "samples": scores.samples,
        **with_interval(scores.avg, "avg"),
        **{name: one.value for name, one in estimates.items()},
        "pass_at": {str(k): with_interval(one, "value") for k, one in scores.pass_at.items()},
        "stderrs": {name: finite_or_none(one.stderr) for name, one in estimates.items()},
    }


def with_interval(one: MeanEstimate, name: str) -> dict[str, Any]:
    """An estimate as JSON, its value under `name`."""
    return {
        name: one.value,
        "stderr": finite_or_none(one.stderr),
        "interval": [finite_or_none(end) for end in one.interval()],
    }


def finite_or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None


def percent(one: MeanEstimate) -> str:
    """`62.50 ± 1.25`, without an error if it is unknown."""
    stderr = f" ± {100 * one.stderr:.2f}" if math.isfinite(one.stderr) else ""
    return f"{100 * one.value:.2f}{stderr}"
