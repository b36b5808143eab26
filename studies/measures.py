"""What a claim is about, as numbers: runs of one seed -> a number. Pure functions of Results.

nan where a run lacks what is measured. The arms are named as in arms.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from studies.jobs import betas
from studies.results import Result, Seed, average, column, mean

Of = Callable[[Result], float]


def entropy(result: Result) -> float:
    """Mean policy/entropy over all steps, nats a token."""
    return average(result, "policy/entropy")


def accuracy(result: Result) -> float:
    """avg@k of the last checkpoint on held-out problems, at temperature 1."""
    return result.accuracy[1.0]


def none_solved(result: Result) -> float:
    """Mean fraction of groups that nobody solved, over the last half of the steps."""
    fractions = column(result, "groups/none_solved")
    return mean(fractions[len(fractions) // 2 :])


def gain(result: Result) -> float:
    """Mean log-prob gain of successes, nats a token, over the steps at which it was measured."""
    return average(result, "diag/logprob_gain_positive")


def kappa_hat(result: Result) -> float:
    """Mean of diag/kappa over the first 20 steps (Appendix E)."""
    return mean(column(result, "diag/kappa")[:20])


def pressures(result: Result, channel: str) -> tuple[list[float], list[float]]:
    """Group accuracies p with 0 < p < 1 that occurred, rising, and the mean pressure of each.

    The gradient mass of a channel ("positive", "negative") at p, after clipping and with real
    lengths, by the fraction of groups at p: `pressure/<channel>/<p>` over `groups/accuracy/<p>`,
    both summed over all steps.
    """
    found = {}
    for name in {name for row in result.rows for name in row}:
        place = name.removeprefix("groups/accuracy/")
        if place == name or not 0 < float(place) < 1:
            continue
        often, mass = (
            sum(x for x in column(result, metric) if math.isfinite(x))
            for metric in (name, f"pressure/{channel}/{place}")
        )
        if often > 0:
            found[float(place)] = mass / often
    where = sorted(found)
    return where, [found[p] for p in where]


def peak(result: Result, channel: str) -> float:
    """The group accuracy with the greatest pressure; nan where no pressure was recorded.

    Between the measured p's it is the vertex of the parabola through the greatest and its two
    neighbours, so that it is not bound to multiples of 1/G.
    """
    where, mass = pressures(result, channel)
    if not any(mass):
        return math.nan
    top = int(np.argmax(mass))
    if not 0 < top < len(where) - 1:
        return where[top]
    x, y = np.array(where[top - 1 : top + 2]), np.array(mass[top - 1 : top + 2])
    a, b, _ = np.polyfit(x - x[1], y, 2)
    return float(x[1] - b / (2 * a)) if a < 0 else float(x[1])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares: of y per unit of x."""
    along = np.asarray(x) - np.mean(x)
    return float(along @ np.asarray(y) / (along @ along))


def difference(seed: Seed, of: Of, arm: str, other: str) -> float:
    """of(arm) - of(other)."""
    return of(seed[arm]) - of(seed[other])


def over_beta_pos(seed: Seed, of: Of, points: Sequence[float]) -> float:
    """Slope of `of` over beta_pos at beta_neg = 0."""
    return slope(points, [of(seed[betas(beta, 0.0).name]) for beta in points])


def over_beta_neg(seed: Seed, of: Of, points: Sequence[float]) -> float:
    """Slope of `of` over beta_neg at beta_pos = 0."""
    return slope(points, [of(seed[betas(0.0, beta).name]) for beta in points])


def of_arm(seed: Seed, of: Of, arm: str) -> float:
    return of(seed[arm])
