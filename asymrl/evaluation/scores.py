"""Scores of a benchmark: avg@k, pass@k and majority@k with their standard errors.

Knows verdicts and answers as text; no files and no models. Samples of one problem are not
independent, so every standard error is over problems, which count as drawn from all problems of
their kind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from asymrl.statistics import MeanEstimate, estimate_mean, finite_mean
from asymrl.types import frozen
from asymrl.verifiers import exact

CORRECT_VOTE = "correct"


@frozen
class SampleResult:
    """One verified response. answer: what was extracted, if anything; tokens: its length."""

    correct: bool
    answer: str | None
    no_answer: bool
    truncated: bool
    tokens: int


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


def score_benchmark(benchmark: str, groups: Sequence[Sequence[SampleResult]]) -> Scores:
    """groups: the samples of each problem, the same number for every problem."""
    samples = len(groups[0])
    assert all(len(group) == samples for group in groups), "a problem has more samples than another"
    correct = [sum(sample.correct for sample in group) for group in groups]

    def per_problem(field: str) -> MeanEstimate:
        return estimate_mean([finite_mean([getattr(s, field) for s in group]) for group in groups])

    return Scores(
        benchmark=benchmark,
        problems=len(groups),
        samples=samples,
        avg=per_problem("correct"),
        pass_at={
            k: estimate_mean([pass_at_k(samples, c, k) for c in correct]) for k in ks(samples)
        },
        majority=estimate_mean([majority(group) for group in groups]),
        truncated=per_problem("truncated"),
        no_answer=per_problem("no_answer"),
        length=per_problem("tokens"),
    )


def sample_result(row: Mapping[str, Any]) -> SampleResult:
    """From a row of <benchmark>.jsonl. KeyError if a field is missing."""
    return SampleResult(
        correct=row["reason"] == "correct",
        answer=row["answer"],
        no_answer=row["reason"] == "no_answer",
        truncated=row["truncated"],
        tokens=row["tokens"],
    )


def ks(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples, and that number."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})


@lru_cache(maxsize=100_000)
def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, Eq. 1); k <= n."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(group: Sequence[SampleResult]) -> float:
    """1 if the most frequent answer to a problem is correct, else 0; 1/t if t answers tie and one
    of them is correct (the expectation of picking one of them at random).

    All correct answers count as one answer. Wrong answers count as one if they are the same number
    or are written alike up to notation (exact.normalise). Wrong answers that only algebra shows to
    be equal count separately, so the score can be slightly too high, never too low. A sample
    without an answer has no vote; without any votes the score is 0.
    """
    votes = Counter(vote for sample in group if (vote := vote_of(sample)) is not None)
    most = max(votes.values(), default=0)
    tied = [vote for vote, count in votes.items() if count == most]
    return (CORRECT_VOTE in tied) / len(tied) if tied else 0.0


def vote_of(sample: SampleResult) -> Hashable:
    """The key under which a sample's answer is counted; None without an answer."""
    if sample.correct:
        return CORRECT_VOTE
    if sample.no_answer or sample.answer is None:
        return None
    number = exact.number(sample.answer)
    return ("wrong", exact.normalise(sample.answer) if number is None else number)


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
