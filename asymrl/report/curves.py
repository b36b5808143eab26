"""Curves over group accuracy p: what an arm's estimator computes, and what its updates measured.

Knows estimators and the metrics by accuracy; knows nothing about drawing. It calls the estimators
that training uses, so torch is imported, but only when the first curve is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from asymrl.report.arms import Arm, Curve, mean_curve
from asymrl.report.runs import as_number, gradient_mass, series
from asymrl.types import frozen

Points = Mapping[Fraction, float]  # p -> advantage or mass
FINE_GROUP = 200  # rollouts per group for smooth curves
MAX_GROUP = 1024  # rollouts per group; larger groups are not drawn


@frozen
class EstimatorCurves:
    """One arm's curves, by "positive" and "negative". advantage: A(p); mass: W(p), the mean |A|
    that a group of accuracy p gives the channel: p |A_pos(p)| or (1 - p) |A_neg(p)|."""

    advantage: Mapping[str, Curve]
    mass: Mapping[str, Curve]


def estimator_curves(arm: Arm) -> EstimatorCurves | None:
    """The curves of the estimator in the arm's config, at its own group size G.

    They are exact at each p = k / G where the channel has rollouts. In between they follow the
    curve of large groups if the values do not depend on G, else straight lines. Estimators that use
    more than p get equal log-probs and a batch with each accuracy once. None if the config names no
    estimator that this version can compute.
    """
    size = arm.settings.get("rollout.group_size")
    if not isinstance(size, int) or not 1 < size <= MAX_GROUP:
        return None
    from asymrl.algo.advantages import ADVANTAGES

    section = "advantage."
    params = {
        key.removeprefix(section): value
        for key, value in arm.settings.items()
        if key.startswith(section)
    }
    estimator = ADVANTAGES.get(str(params.pop("name", None)))
    if estimator is None:
        return None
    try:
        exact = _tabulate(estimator, params, size)
        fine = _tabulate(estimator, params, size * max(1, FINE_GROUP // size))
    except (TypeError, ValueError, AssertionError, ArithmeticError, RuntimeError):
        return None  # the config of another version: other names, other ranges, other types
    points = [*exact.values(), *fine.values()]
    if any(math.isnan(as_number(a)) for values in points for a in values.values()):
        return None
    return EstimatorCurves(
        advantage={channel: _join(exact[channel], fine[channel], False) for channel in exact},
        mass={channel: _mass(channel, exact[channel], fine[channel]) for channel in exact},
    )


def measured_mass(arm: Arm, channel: str) -> Curve | None:
    """`gradient_mass` averaged over the arm's runs, None if no run has any."""
    at: dict[float, list[float]] = {}
    for run in arm.runs:
        for p, mass in gradient_mass(run.rows, channel).items():
            at.setdefault(p, []).append(mass)
    return mean_curve(at) if any(map(any, at.values())) else None


def has_schedule(arm: Arm, beta: str) -> bool:
    """Whether advantage/<beta> changed during some run of the arm."""
    return any(len(set(series(run, f"advantage/{beta}").values)) > 1 for run in arm.runs)


def equal_curves(labels: Sequence[str], curves: Sequence[Curve | None]) -> str:
    """Sentences that name the arms with the same curve: in a figure one may hide the other."""
    arms: dict[tuple[float, ...], list[str]] = {}
    for label, curve in zip(labels, curves, strict=True):
        if curve:
            arms.setdefault((*curve.x, *(round(y, 9) for y in curve.y)), []).append(label)
    return "".join(f" Same curve: {', '.join(same)}." for same in arms.values() if len(same) > 1)


def _tabulate(
    estimator: Callable[..., Any], params: Mapping[str, Any], size: int
) -> dict[str, Points]:
    """Channel -> p -> advantage for p = k / size, from groups with k = 0 .. size correct ones."""
    import torch

    from asymrl.types import Groups

    k = torch.arange(size + 1)[:, None]
    rewards = (torch.arange(size) < k).double()
    flat = torch.zeros_like(rewards)
    groups = Groups(
        rewards=rewards, valid=rewards >= 0, lengths=flat.long() + 1, mean_logprobs=flat
    )
    advantages = estimator(groups, **params)
    return {
        "positive": {Fraction(j, size): float(advantages[j, 0]) for j in range(1, size + 1)},
        "negative": {Fraction(j, size): float(advantages[j, -1]) for j in range(size)},
    }


def _mass(channel: str, exact: Points, fine: Points) -> Curve:
    """p |A_pos(p)| or (1 - p) |A_neg(p)|, to p = 0 and 1 unless it grows without bound there."""
    exact, fine = (
        {p: float(p if channel == "positive" else 1 - p) * abs(a) for p, a in points.items()}
        for points in (exact, fine)
    )
    whole = _join(exact, fine, True)
    unbounded = max(whole.y) > 2 * max(exact.values())
    return _join(exact, fine, False) if unbounded else whole


def _join(exact: Points, fine: Points, to_the_ends: bool) -> Curve:
    """The exact points, with the fine ones between them if the two agree, else straight lines.

    The fine points go out to p = 0 or 1 if the two agree on that end (a flip's end depends on G),
    or, if the channel has no rollouts at that end, if `to_the_ends`.
    """
    agree = {p: abs(fine[p] - a) <= 1e-4 * max(1.0, abs(a)) for p, a in exact.items()}
    inner = [p for p in exact if 0 < p < 1]
    points = exact
    if all(agree[p] for p in inner):
        low, high = (agree.get(Fraction(end), to_the_ends) for end in (0, 1))
        between = {
            p: a for p, a in fine.items() if (low or p > inner[0]) and (high or p < inner[-1])
        }
        points = {**between, **exact}
    x = sorted(points)
    return Curve(x=[float(p) for p in x], y=[points[p] for p in x])
