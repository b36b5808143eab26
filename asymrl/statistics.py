"""Standard errors, t intervals, paired tests and the paired bootstrap.

Knows plain numbers only: nothing about runs, benchmarks or seeds. Every interval is at 95%.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from asymrl.types import frozen

ALPHA = 0.05
UPPER = 1 - ALPHA / 2  # the upper quantile of a two-sided 95% interval
RESAMPLES, RESAMPLE_SEED, RESAMPLES_AT_ONCE = 10_000, 0, 1000
ROUNDING = 1e-12  # upper bound on what sums of fractions that cancel leave behind


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
    """The mean of n paired differences, its standard error, its 95% interval, and p of the
    two-sided paired t test of "the mean is 0".

    With fewer than two pairs only the mean is known: errors and interval are nan, and p is 1.
    """

    mean: float
    stderr: float
    low: float
    high: float
    p: float
    n: int


def paired_test(differences: Sequence[float] | np.ndarray) -> PairedTest:
    """The t interval is mean -+ t(.975, n - 1) s / sqrt(n).

    Differences that are nan (a pair that could not be measured) are left out. If all differences
    are equal, the interval is that number, and p is that of a sign test: 2 / 2^n, or 1 if they
    are 0.
    """
    known = [float(d) for d in differences if math.isfinite(d)]
    n, mean, stderr = len(known), finite_mean(known), standard_error(known)
    half = t_half_width(stderr, n - 1)
    p = 1.0
    if stderr > 0:
        p = float(2 * stats.t.sf(abs(mean) / stderr, n - 1))
    elif n > 1 and mean:
        p = 2 / 2**n
    return PairedTest(mean=mean, stderr=stderr, low=mean - half, high=mean + half, p=p, n=n)


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
