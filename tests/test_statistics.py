"""Intervals, paired tests and the bootstrap: by hand, and in simulation."""

from __future__ import annotations

import math
from statistics import mean, stdev

import numpy as np
import pytest

from asymrl.statistics import (
    BootstrapDifference,
    MeanEstimate,
    direction,
    estimate_mean,
    holm,
    mean_of_estimates,
    paired_bootstrap,
    paired_test,
    widening,
)


def test_interval_and_p_values_of_three_differences_by_hand() -> None:
    # 1, 2, 3: mean 2, s = 1, standard error 1 / sqrt 3, t = 3.4641, t(.975, 2) = 4.30265
    result = paired_test([1.0, 2.0, 3.0])
    assert result.mean == 2.0 and result.n == 3
    assert result.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-5)
    assert result.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-5)
    # with 2 degrees of freedom P(T > t) = 1/2 - t / (2 sqrt(t^2 + 2)), here of t^2 = 12
    assert result.p == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-12)
    assert result.stderr == pytest.approx(1 / math.sqrt(3))


def test_nan_differences_are_left_out() -> None:
    assert paired_test([1.0, math.nan, 2.0, 3.0]) == paired_test([1.0, 2.0, 3.0])
    one = paired_test([math.nan, 0.25])
    assert one.n == 1 and one.mean == 0.25 and one.p == 1 and math.isnan(one.low)


@pytest.mark.parametrize(
    ("number", "pairs", "p"), [(0.25, 8, 2 / 256), (0.25, 2, 0.5), (0.0, 8, 1)]
)
def test_equal_differences_have_an_interval_of_width_zero_and_the_p_of_a_sign_test(
    number, pairs, p
) -> None:
    result = paired_test([number] * pairs)
    assert (result.low, result.mean, result.high, result.p) == (number, number, number, p)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, and never below the one before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_paired_interval_has_its_nominal_coverage() -> None:
    draws = np.random.default_rng(0).normal(0.3, 1.0, size=(4000, 8))
    result = [paired_test(row) for row in draws]
    covered = np.mean([one.low <= 0.3 <= one.high for one in result])
    assert 0.94 < covered < 0.96  # standard error .0034


@pytest.mark.slow
def test_holm_keeps_the_family_wise_error_under_the_null() -> None:
    draws = np.random.default_rng(1).normal(0.0, 1.0, size=(600, 36, 8))
    decided = [min(holm([paired_test(row).p for row in family])) < 0.05 for family in draws]
    assert 0.02 < np.mean(decided) < 0.075  # nominal .049, standard error .009


def test_the_mean_of_estimates_by_hand() -> None:
    parts = [MeanEstimate(value=v, stderr=s, df=n) for v, s, n in ((0.5, 0.03, 29), (0.7, 0.04, 9))]
    result = mean_of_estimates(parts)
    assert (result.value, result.stderr) == pytest.approx((0.6, 0.025))
    assert result.df == pytest.approx((9 + 16) ** 2 / (81 / 29 + 256 / 9))
    assert mean_of_estimates(parts[:1]) == parts[0]
    exact = MeanEstimate(value=1.0, stderr=0.0, df=4)
    assert mean_of_estimates([exact, exact]).interval() == (1.0, 1.0)


def word(difference: BootstrapDifference) -> str:
    return direction(difference.low, difference.high)


def correct_counts(generator, problems: int, samples: int) -> np.ndarray:
    """(problems,): correct samples of problems whose accuracy is Beta(0.6, 0.9)."""
    return generator.binomial(samples, generator.beta(0.6, 0.9, problems))


@pytest.mark.parametrize("problems", [30, 200])
def test_t_intervals_have_nearly_their_nominal_coverage(problems: int) -> None:
    generator, truth = np.random.default_rng(1), 0.6 / 1.5
    covered, values, errors = [], [], []
    for _ in range(1500):
        one = estimate_mean((correct_counts(generator, problems, 10) / 10).tolist())
        low, high = one.interval()
        covered.append(low <= truth <= high)
        values.append(one.value)
        errors.append(one.stderr)
    assert 0.93 <= mean(covered) <= 0.97
    assert mean(errors) == pytest.approx(stdev(values), rel=0.05)  # errors are over problems


def test_the_interval_of_a_mean_of_estimates_has_nearly_its_nominal_coverage() -> None:
    generator, covered = np.random.default_rng(2), []
    for _ in range(1000):
        parts = [
            estimate_mean((correct_counts(generator, n, k) / k).tolist())
            for n, k in ((500, 5), (30, 10), (30, 10), (40, 10), (675, 5))
        ]
        low, high = mean_of_estimates(parts).interval()
        covered.append(low <= 0.4 <= high)
    assert 0.93 <= mean(covered) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "problems"), [(0.0, 30), (0.1, 100)])
def test_bootstrap_intervals_have_nearly_their_nominal_coverage(shift, problems) -> None:
    generator, covered = np.random.default_rng(3), []
    for _ in range(400):
        p = generator.uniform(0, 0.9, problems)
        pairs = generator.binomial(10, p + shift) / 10 - generator.binomial(10, p) / 10
        result, _ = paired_bootstrap({"b": pairs.tolist()})
        covered.append(result["b"].low <= shift <= result["b"].high)
    assert 0.90 <= mean(covered) <= 0.98


@pytest.mark.slow
def test_the_bootstrap_of_a_mean_over_groups_has_nearly_its_nominal_coverage() -> None:
    generator, covered, decided = np.random.default_rng(6), [], []
    for _ in range(300):
        pairs = {}
        for name, n, k in (("a", 200, 5), ("b", 40, 10), ("c", 40, 10)):
            p = generator.beta(0.6, 0.9, n)
            pairs[name] = (generator.binomial(k, p) / k - generator.binomial(k, p) / k).tolist()
        _, both = paired_bootstrap(pairs)
        covered.append(both.low <= 0 <= both.high)
        decided.append(word(both) != "not distinguishable")
    assert 0.91 <= mean(covered) <= 0.985 and mean(decided) == pytest.approx(1 - mean(covered))


def test_pairing_makes_a_small_difference_visible() -> None:
    """Problems differ more than models: the same numbers paired in another order show nothing."""
    hard = np.linspace(0, 0.9, 100)
    better, worse = hard + 0.05, hard
    paired, _ = paired_bootstrap({"b": (better - worse).tolist()})
    unpaired, _ = paired_bootstrap({"b": (better - worse[::-1]).tolist()})
    assert paired["b"].mean == pytest.approx(unpaired["b"].mean)
    assert word(paired["b"]) == "higher"
    assert word(unpaired["b"]) == "not distinguishable"


def test_a_bootstrap_interval_does_not_depend_on_the_other_groups() -> None:
    a, b = np.random.default_rng(4).normal(size=50).tolist(), [0.0, 0.5]
    alone, _ = paired_bootstrap({"a": a})
    beside, both = paired_bootstrap({"b": b, "a": a})
    assert alone["a"] == beside["a"]
    assert both.mean == pytest.approx((mean(a) + mean(b)) / 2) and both.n == 52


def test_directions_by_hand() -> None:
    def of(*differences: float) -> str:
        return word(paired_bootstrap({"b": differences})[0]["b"])

    assert of(0.1, 0.2, 0.1, 0.3) == "higher"
    assert of(-0.1, -0.2, -0.1, -0.3) == "lower"
    assert of(0.1, -0.2, 0.1, 0.0) == "not distinguishable"
    assert of(0.0, 0.0, 0.0) == "not distinguishable"
    assert of(0.3) == "not measured"


def test_the_bootstrap_agrees_with_scipys() -> None:
    from scipy import stats

    numbers = np.random.default_rng(0).normal(0.1, 1, 60)
    result, _ = paired_bootstrap({"b": numbers.tolist()})
    theirs = stats.bootstrap(
        (numbers,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (result["b"].low, result["b"].high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("problems", [3, 6, 10])
def test_few_pairs_rarely_show_a_difference_that_does_not_exist(problems: int) -> None:
    """Some 5% of the intervals exclude a true difference of 0; without widening, 8% to 15% do."""
    generator, decided, covered = np.random.default_rng(8), [], []
    for _ in range(400):
        p = generator.uniform(0, 0.9, problems)
        right, other = generator.binomial(10, p), generator.binomial(10, p)
        more = generator.binomial(10, p + 0.1)
        none, some = ((x - right) / 10 for x in (other, more))
        result, _ = paired_bootstrap({"none": none.tolist(), "some": some.tolist()})
        decided.append(word(result["none"]) != "not distinguishable")
        covered.append(result["some"].low <= 0.1 <= result["some"].high)
    assert mean(decided) <= 0.08 and mean(covered) >= 0.92


def test_the_widening_by_hand() -> None:
    """t(.975) of 1 and 9 degrees of freedom is 12.706 and 2.262, z(.975) 1.95996."""
    assert widening(2) == pytest.approx(math.sqrt(2) * 12.7062 / 1.95996, rel=1e-5)
    assert widening(10) == pytest.approx(math.sqrt(10 / 9) * 2.262157 / 1.959964, rel=1e-5)
    assert widening(10**6) == pytest.approx(1, abs=1e-5)
