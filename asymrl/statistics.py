"""Standard errors, t intervals, paired tests and the paired bootstrap.

Knows plain numbers only: nothing about runs, benchmarks or seeds. Every interval is at 95%.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import stats

from asymrl.types import frozen

ALPHA = 0.05
UPPER = 1 - ALPHA / 2  # the upper quantile of a two-sided 95% interval
RESAMPLES, RESAMPLE_SEED, RESAMPLES_AT_ONCE = 10_000, 0, 1000
ROUNDING = 1e-12  # upper bound on what sums of fractions that cancel leave behind

Conclusion = Literal["shown", "not shown: the opposite", "undecided", "not measured"]


def finite_mean(numbers: Sequence[float]) -> float:
    """Mean of the finite numbers; nan if there are none."""
    finite = [number for number in numbers if math.isfinite(number)]
    return sum(finite) / len(finite) if finite else math.nan


def standard_error(numbers: Sequence[float] | np.ndarray) -> float:
    """s / sqrt(n), with s over n - 1; nan for fewer than two numbers."""
    n = len(numbers)
    return float(np.std(numbers, ddof=1)) / math.sqrt(n) if n > 1 else math.nan


def t_half_width(stderr: float, df: float) -> float:
    """Half the width of a 95% t interval: t(.975, df) stderr. nan if stderr is nan or df is 0."""
    return float(stats.t.ppf(UPPER, df)) * stderr


@frozen
class MeanEstimate:
    """A mean, its standard error and the degrees of freedom of that error.

    For a single number stderr is nan and df is 0.
    """

    value: float
    stderr: float
    df: float

    def interval(self) -> tuple[float, float]:
        """value -+ t(.975, df) stderr, not clipped to [0, 1]; (nan, nan) without an error."""
        half = t_half_width(self.stderr, self.df)
        return self.value - half, self.value + half


def estimate_mean(numbers: Sequence[float]) -> MeanEstimate:
    """Mean and standard error of n independent numbers, with n - 1 degrees of freedom."""
    error, df = standard_error(numbers), len(numbers) - 1
    return MeanEstimate(value=finite_mean(numbers), stderr=error, df=df)


def mean_of_estimates(estimates: Sequence[MeanEstimate]) -> MeanEstimate:
    """The unweighted mean of B independent estimates: stderr = sqrt(sum of squared errors) / B.

    Degrees of freedom by Satterthwaite. A single estimate is returned unchanged. The error is nan
    if one of the errors is.
    """
    if len(estimates) == 1:
        return estimates[0]
    value, variances = finite_mean([e.value for e in estimates]), [e.stderr**2 for e in estimates]
    total, df = sum(variances), sum(e.df for e in estimates)
    denominator = sum(v**2 / max(1, e.df) for v, e in zip(variances, estimates, strict=True))
    if denominator > 0:  # else every error is 0
        df = total**2 / denominator
    return MeanEstimate(value=value, stderr=math.sqrt(total) / len(estimates), df=df)


@frozen
class PairedTest:
    """The mean of n paired differences, its 95% interval and two two-sided p values.

    p: paired t test. p_sign_flip: exact sign-flip test, at least 2 / 2^n. With fewer than two pairs
    only the mean is known: the interval is nan and both p values are 1.
    """

    mean: float
    low: float
    high: float
    p: float
    p_sign_flip: float
    n: int


def paired_test(differences: Sequence[float]) -> PairedTest:
    """The t interval, mean -+ t(.975, n - 1) s / sqrt(n), and both tests of "the mean is 0".

    Differences that are nan (a pair that could not be measured) are left out. If all differences
    are equal, the interval is that number, the t test is undefined, and p is `p_sign_flip`.
    """
    known = np.array([d for d in differences if math.isfinite(d)], dtype=float)
    n = len(known)
    mean, stderr = float(known.mean()) if n else math.nan, standard_error(known)
    p = p_sign_flip = sign_flip_p(known) if n > 1 else 1.0
    if stderr > 0:
        p = float(2 * stats.t.sf(abs(mean) / stderr, n - 1))
    half = t_half_width(stderr, n - 1)
    return PairedTest(
        mean=mean, low=mean - half, high=mean + half, p=p, p_sign_flip=p_sign_flip, n=n
    )


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Exact two-sided p of the sign-flip (Fisher-Pitman) test of "symmetric about 0"; n <= 20.

    The share of all 2^n sign assignments whose sum is at least as far from 0 as the observed one.
    """
    known = np.asarray(differences, dtype=float)
    n = len(known)
    assert n <= 20, f"{n} pairs have 2^{n} sign assignments"
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    as_far = np.abs(signs @ known) >= abs(known.sum()) * (1 - 1e-12) - 1e-300
    return float(as_far.mean())


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979), for any dependence.

    The k-th smallest of m p values becomes (m - k + 1) p, at least as large as the adjusted smaller
    ones and at most 1.
    """
    adjusted, largest = [1.0] * len(ps), 0.0
    for k, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - k) * ps[index]))
        adjusted[index] = largest
    return adjusted


def conclude(test: PairedTest, sign: int, adjusted_p: float, alpha: float = ALPHA) -> Conclusion:
    """What a test says about the claim that the mean difference has this sign (+1 or -1).

    "undecided": the adjusted p is not below alpha. "not measured": fewer than two pairs.
    """
    assert sign in (1, -1), f"a claim has the sign +1 or -1, not {sign}"
    if test.n < 2:
        return "not measured"
    if adjusted_p >= alpha:
        return "undecided"
    return "shown" if test.mean * sign > 0 else "not shown: the opposite"


@frozen
class BootstrapDifference:
    """A mean paired difference with its 95% bootstrap interval; nan for a single pair. n: pairs."""

    mean: float
    low: float
    high: float
    n: int


def paired_bootstrap(
    differences: Mapping[str, Sequence[float]],
) -> tuple[dict[str, BootstrapDifference], BootstrapDifference]:
    """The mean difference of each group of pairs, and the unweighted mean over groups.

    10,000 resamples of each group's pairs with a fixed seed; percentile intervals, widened for few
    pairs (`widening`). A group's interval does not depend on the other groups. If a group has one
    pair, its interval and the interval of the overall mean are nan.
    """
    results, resampled = {}, []
    for name, group in differences.items():
        numbers = np.asarray(group, dtype=float)
        n = len(numbers)
        means = _resampled_means(numbers, name) if n > 1 else np.full(RESAMPLES, math.nan)
        results[name] = _percentile_interval(float(numbers.mean()), means, n)
        resampled.append(means)
    overall = finite_mean([one.mean for one in results.values()])
    n = sum(one.n for one in results.values())
    return results, _percentile_interval(overall, np.mean(resampled, axis=0), n)


def _resampled_means(numbers: np.ndarray, name: str) -> np.ndarray:
    """(RESAMPLES,) means of n draws with replacement, their deviations widened. name: the seed."""
    generator, n = np.random.default_rng([RESAMPLE_SEED, *name.encode()]), len(numbers)
    means = np.concatenate(
        [
            numbers[generator.integers(n, size=(RESAMPLES_AT_ONCE, n))].mean(axis=1)
            for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)
        ]
    )
    return numbers.mean() + widening(n) * (means - numbers.mean())


def widening(n: int) -> float:
    """sqrt(n / (n-1)) t(.975, n-1) / z(.975): 1.22 for n = 10, 1.06 for n = 30, 1 for large n.

    The plain percentile interval is too short for small n. This is Hesterberg's expanded percentile
    interval (2015, arXiv 1411.5279), applied to the deviations and not to the percentiles, so that
    groups of different sizes can be averaged.
    """
    return math.sqrt(n / (n - 1)) * t_half_width(1.0, n - 1) / float(stats.norm.ppf(UPPER))


def _percentile_interval(value: float, means: np.ndarray, n: int) -> BootstrapDifference:
    low, high = np.quantile(means, [ALPHA / 2, UPPER])
    return BootstrapDifference(mean=value, low=float(low), high=float(high), n=n)


def direction(low: float, high: float) -> str:
    """Which side of 0 an interval lies on, if any."""
    if not math.isfinite(low):
        return "not measured"
    if low > ROUNDING:
        return "higher"
    return "lower" if high < -ROUNDING else "not distinguishable"
