"""What the samples of a benchmark say: avg@k, pass@k, majority@k, and how sure each number is.

Pure: knows verdicts and answers as text; no files, no models. Samples of one problem are not
independent, so every standard error is over problems, which are taken as drawn from all problems
of their kind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy import stats

from asymrl.types import frozen
from asymrl.verifiers import exact

LEVEL = 0.95
RESAMPLES, SEED, BLOCK = 10_000, 0, 1000
NOISE = 1e-12  # sums of fractions that cancel leave this much at most
RIGHT = "right"
Word = Literal["higher", "lower", "not distinguishable", "not measured"]


@frozen
class Sample:
    """One judged response. answer: what was extracted, if anything; tokens: its length."""

    correct: bool
    answer: str | None
    no_answer: bool
    truncated: bool
    tokens: int


@frozen
class Estimate:
    """A mean over problems, its standard error, and the degrees of freedom of that error.

    Of a single problem the error is nan, and freedom is 0.
    """

    value: float
    stderr: float
    freedom: float


@frozen
class Scores:
    """One benchmark's result. pass_at: k -> pass@k, for powers of two up to `samples`, and that."""

    benchmark: str
    problems: int
    samples: int
    avg: Estimate
    pass_at: Mapping[int, Estimate]
    majority: Estimate
    truncated: Estimate
    no_answer: Estimate
    length: Estimate


@frozen
class Difference:
    """Of two paired means, with its 95% interval; nan where there is one problem only."""

    value: float
    low: float
    high: float
    problems: int


def score(benchmark: str, groups: Sequence[Sequence[Sample]]) -> Scores:
    """groups: the samples of each problem, equally many."""
    samples = len(groups[0])
    assert all(len(group) == samples for group in groups), "equally many samples a problem"
    correct = [sum(sample.correct for sample in group) for group in groups]
    return Scores(
        benchmark=benchmark,
        problems=len(groups),
        samples=samples,
        avg=estimate([count / samples for count in correct]),
        pass_at={k: estimate([pass_at_k(samples, c, k) for c in correct]) for k in ks(samples)},
        majority=estimate([majority(group) for group in groups]),
        truncated=estimate([share([sample.truncated for sample in group]) for group in groups]),
        no_answer=estimate([share([sample.no_answer for sample in group]) for group in groups]),
        length=estimate([share([sample.tokens for sample in group]) for group in groups]),
    )


def sample_of(row: Mapping[str, Any]) -> Sample:
    """A row of <benchmark>.jsonl (evaluate.sample_rows). KeyError where it is none."""
    return Sample(
        correct=row["reason"] == "correct",
        answer=row["answer"],
        no_answer=row["reason"] == "no_answer",
        truncated=row["truncated"],
        tokens=row["tokens"],
    )


def share(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def estimate(of_problems: Sequence[float]) -> Estimate:
    """Mean and s / sqrt(n) of n problems' numbers, s with n - 1."""
    n = len(of_problems)
    error = float(np.std(of_problems, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(value=share(of_problems), stderr=error, freedom=n - 1)


def ks(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples, and that number."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})


@lru_cache(maxsize=100_000)
def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, Eq. 1); k <= n."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(group: Sequence[Sample]) -> float:
    """Whether the most frequent answer of a problem's samples is right; among t that are equally
    frequent, one of them right, 1/t: the expectation of drawing one.

    The verifier's own equality puts the right answers together: each is the same as the gold. Wrong
    ones count together where they are the same number, or written alike up to notation
    (exact.normalise); two that only algebra shows to be the same count apart, so the number can be
    a little too high, never too low. A sample without an answer has no vote; without votes, 0.
    """
    votes = Counter(vote for sample in group if (vote := vote_of(sample)) is not None)
    most = max(votes.values(), default=0)
    tied = [vote for vote, count in votes.items() if count == most]
    return (RIGHT in tied) / len(tied) if tied else 0.0


def vote_of(sample: Sample) -> Hashable:
    """What counts as one answer; None: no vote."""
    if sample.correct:
        return RIGHT
    if sample.no_answer or sample.answer is None:
        return None
    number = exact.number(sample.answer)
    return ("wrong", exact.normalise(sample.answer) if number is None else number)


def over_benchmarks(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of B benchmarks: its error is the root of the sum of their squared errors
    over B, since their problems are drawn apart; its degrees of freedom are Satterthwaite's.

    With one benchmark, that one. nan where one of the errors is.
    """
    if len(estimates) == 1:
        return estimates[0]
    variances = [one.stderr**2 for one in estimates]
    below = sum(v**2 / max(1, e.freedom) for v, e in zip(variances, estimates, strict=True))
    known = below if below > 0 else math.nan
    freedom = sum(variances) ** 2 / known if below > 0 else sum(e.freedom for e in estimates)
    return Estimate(
        value=share([one.value for one in estimates]),
        stderr=math.sqrt(sum(variances)) / len(estimates),
        freedom=freedom,
    )


def interval(one: Estimate) -> tuple[float, float]:
    """value -+ t(.975, freedom) stderr: 95%, and not cut off at 0 and 1; nan without an error."""
    if not math.isfinite(one.stderr):
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + LEVEL) / 2, one.freedom)) * one.stderr
    return one.value - half, one.value + half


def bootstrap(differences: Mapping[str, Sequence[float]]) -> tuple[dict[str, Difference], Any]:
    """Paired bootstrap over problems: 10,000 resamples of each benchmark's problems, percentile
    interval, widened for few problems, fixed seed -> the difference on each benchmark, and of the
    mean over benchmarks.

    differences: by benchmark, each problem's mean of one less its mean of the other. A benchmark's
    interval does not depend on which others there are. Where a benchmark has one problem, its
    interval and that of the mean are nan.
    """
    found, drawn = {}, []
    for name, of_problems in differences.items():
        known = np.asarray(of_problems, dtype=float)
        means = resampled(known, name) if len(known) > 1 else np.full(RESAMPLES, math.nan)
        found[name] = difference(float(known.mean()), means, len(known))
        drawn.append(means)
    value = share([one.value for one in found.values()])
    problems = sum(one.problems for one in found.values())
    return found, difference(value, np.mean(drawn, axis=0), problems)


def resampled(known: np.ndarray, name: str) -> np.ndarray:
    """(RESAMPLES,): means of n draws with replacement from n numbers, as far from the mean of these
    as `widening` says."""
    generator, n = np.random.default_rng([SEED, *name.encode()]), len(known)
    blocks = [generator.integers(n, size=(BLOCK, n)) for _ in range(RESAMPLES // BLOCK)]
    means = np.concatenate([known[block].mean(axis=1) for block in blocks])
    return known.mean() + widening(n) * (means - known.mean())


def widening(n: int) -> float:
    """sqrt(n / (n-1)) t(.975, n-1) / z(.975): 1.22 for 10 problems, 1.06 for 30, 1 for many.

    Resamples vary as n numbers about their own mean do, by n and not n - 1, and a percentile knows
    no t: intervals of few problems would be too short. The correction is Hesterberg's (2015, arXiv
    1411.5279, the expanded percentile interval), of the deviations and not of the percentiles, so
    that benchmarks of several sizes have a mean.
    """
    tail = (1 + LEVEL) / 2
    return math.sqrt(n / (n - 1)) * float(stats.t.ppf(tail, n - 1) / stats.norm.ppf(tail))


def difference(value: float, means: np.ndarray, problems: int) -> Difference:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(value=value, low=float(low), high=float(high), problems=problems)


def word(one: Difference) -> Word:
    """What may be said of a difference: the interval holds 0 or it does not."""
    if not math.isfinite(one.low):
        return "not measured"
    if one.low <= NOISE and one.high >= -NOISE:
        return "not distinguishable"
    return "higher" if one.value > 0 else "lower"


def flat(scores: Scores) -> dict[str, Any]:
    """As summary.json has it; null where there is no number. pass_at_k: k = samples."""
    last = scores.pass_at[scores.samples]
    named = {
        "pass_at_k": last,
        "majority": scores.majority,
        "truncated": scores.truncated,
        "no_answer": scores.no_answer,
        "length_mean": scores.length,
    }
    return {
        "benchmark": scores.benchmark,
        "problems": scores.problems,
        "samples": scores.samples,
        **sure(scores.avg, "avg"),
        **{name: one.value for name, one in named.items()},
        "pass_at": {str(k): sure(one, "value") for k, one in scores.pass_at.items()},
        "stderrs": {name: finite(one.stderr) for name, one in named.items()},
    }


def sure(one: Estimate, name: str) -> dict[str, Any]:
    return {
        name: one.value,
        "stderr": finite(one.stderr),
        "interval": [finite(end) for end in interval(one)],
    }


def finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
