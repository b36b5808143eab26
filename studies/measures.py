"""The quantities that claims are about, as pure functions of the Results of one seed.

A measure is nan if a run does not have the metric. Arms are named as in jobs.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from asymrl.report import runs
from asymrl.statistics import finite_mean
from studies.jobs import betas
from studies.results import Result, Seed, average, column

Measure = Callable[[Result], float]


def entropy(result: Result) -> float:
    """Mean policy/entropy over all steps, nats a token."""
    return average(result, "policy/entropy")


def accuracy(result: Result) -> float:
    """Greedy accuracy of the last checkpoint on held-out problems."""
    return result.accuracy[0.0]


def none_solved(result: Result) -> float:
    """Mean fraction of groups without a correct rollout, over the last half of the steps."""
    fractions = column(result, "groups/none_solved")
    return finite_mean(fractions[len(fractions) // 2 :])


def gain(result: Result) -> float:
    """Mean log-prob gain of correct rollouts, nats a token, over the steps that measured it."""
    return average(result, "diag/logprob_gain_positive")


def kappa_hat(result: Result) -> float:
    """Mean of diag/kappa over the first 20 steps (Appendix E)."""
    return runs.kappa_hat(result.rows)


def pressures(result: Result, channel: str) -> tuple[list[float], list[float]]:
    """The group accuracies p that occurred, 0 < p < 1, ascending, and the gradient mass per group
    of a channel ("positive", "negative") at each. Both are empty without a recorded pressure."""
    mass = runs.gradient_mass(result.rows, channel)
    accuracies = sorted(p for p in mass if 0 < p < 1)
    return accuracies, [mass[p] for p in accuracies]


def peak(result: Result, channel: str) -> float:
    """The group accuracy with the highest pressure; nan if no pressure was recorded.

    The vertex of the parabola through the highest value and its two neighbours, so that the peak
    is not restricted to multiples of 1/G.
    """
    accuracies, mass = pressures(result, channel)
    if not any(mass):
        return math.nan
    top = int(np.argmax(mass))
    if not 0 < top < len(accuracies) - 1:
        return accuracies[top]
    x, y = np.array(accuracies[top - 1 : top + 2]), np.array(mass[top - 1 : top + 2])
    a, b, _ = np.polyfit(x - x[1], y, 2)
    return float(x[1] - b / (2 * a)) if a < 0 else float(x[1])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of y over x."""
    centred = np.asarray(x) - np.mean(x)
    return float(centred @ np.asarray(y) / (centred @ centred))


def difference(seed: Seed, measure: Measure, arm: str, other: str) -> float:
    """measure(arm) - measure(other)."""
    return measure(seed[arm]) - measure(seed[other])


def slope_over_beta_pos(seed: Seed, measure: Measure, points: Sequence[float]) -> float:
    """Slope of `measure` over beta_pos at beta_neg = 0."""
    return slope(points, [measure(seed[betas(beta, 0.0).name]) for beta in points])


def slope_over_beta_neg(seed: Seed, measure: Measure, points: Sequence[float]) -> float:
    """Slope of `measure` over beta_neg at beta_pos = 0."""
    return slope(points, [measure(seed[betas(0.0, beta).name]) for beta in points])


def measure_arm(seed: Seed, measure: Measure, arm: str) -> float:
    return measure(seed[arm])
