"""Paired comparisons: hand-computed numbers, and what holds over many simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asymrl.statistics import holm, paired, sign_flip, verdict


def test_the_interval_and_both_p_values_of_three_differences_worked_by_hand() -> None:
    # 1, 2, 3: mean 2, s = 1, standard error 1 / sqrt 3, t = 3.4641, t(.975, 2) = 4.30265
    found = paired([1.0, 2.0, 3.0])
    assert found.mean == 2.0 and found.n == 3
    assert found.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-5)
    assert found.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-5)
    # with 2 degrees of freedom P(T > t) = 1/2 - t / (2 sqrt(t^2 + 2)), here of t^2 = 12
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-12)
    assert found.p_flip == 2 / 8  # only + + + and - - - are as far from 0


def test_sign_flips_are_counted_exactly() -> None:
    # 3, -1, 1: the sum is 3; of |+-3 +-1 +-1| four are 3 and two are 5
    assert sign_flip([3.0, -1.0, 1.0]) == 6 / 8
    assert sign_flip([0.1] * 8) == 2 / 256  # rounding must not lose the assignment as it is
    assert sign_flip([0.0, 0.0]) == 1


def test_pairs_that_could_not_be_measured_are_left_out() -> None:
    assert paired([1.0, math.nan, 2.0, 3.0]) == paired([1.0, 2.0, 3.0])
    one = paired([math.nan, 0.25])
    assert one.n == 1 and one.mean == 0.25 and one.p == 1 and math.isnan(one.low)
    assert verdict(one, 1, one.p) == "not measured"


@pytest.mark.parametrize(
    ("number", "pairs", "p"), [(0.25, 8, 2 / 256), (0.25, 2, 0.5), (0.0, 8, 1)]
)
def test_equal_differences_are_a_point_and_only_signs_speak(number, pairs, p) -> None:
    found = paired([number] * pairs)
    assert (found.low, found.mean, found.high, found.p) == (number, number, number, p)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, and never below what came before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_verdict_is_about_the_claimed_sign_and_the_adjusted_p() -> None:
    up = paired([1.0, 1.1, 0.9, 1.05])
    assert verdict(up, +1, 0.049) == "shown"
    assert verdict(up, -1, 0.049) == "not shown: the opposite"
    assert verdict(up, +1, 0.05) == verdict(up, -1, 0.05) == "undecided"


def test_the_interval_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.3, 1.0, size=(4000, 8))
    found = [paired(row) for row in draws]
    covered = np.mean([one.low <= 0.3 <= one.high for one in found])
    assert 0.94 < covered < 0.96  # standard error .0034


def test_under_the_null_a_family_is_falsely_decided_at_most_one_time_in_twenty() -> None:
    draws = np.random.default_rng(1).normal(0.0, 1.0, size=(600, 36, 8))
    decided = [min(holm([paired(row).p for row in family])) < 0.05 for family in draws]
    assert 0.02 < np.mean(decided) < 0.075  # nominal .049, standard error .009


def test_sign_flip_p_is_valid_where_the_t_test_assumes_too_much() -> None:
    draws = np.random.default_rng(2).standard_cauchy(size=(3000, 8))
    assert np.mean([sign_flip(row) <= 0.05 for row in draws]) == pytest.approx(12 / 256, abs=0.012)
