"""Runs that differ only in their seed, as one arm: means over its seeds, and how sure they are.

Knows runs and their numbers; nothing of pages or drawings. In curves the spread is one standard
error, in the table a 95% interval.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asymrl.report_runs import Run, Series, labels, number, series
from asymrl.types import value

EMA = 0.7
FEW = 8  # values; a moving average of fewer would lag far behind them
KAPPA_STEPS = 20
BETAS = ("advantage.beta_pos", "advantage.beta_neg")


@value
class Arm:
    """Runs with equal settings but for `seed`, of which each has its own."""

    label: str
    runs: Sequence[Run]


@value
class Line:
    """A curve of one arm: y over x, low to high about it (or empty), and, fainter, raw values."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    raw: Sequence[float] = ()


@value
class Estimate:
    """A mean over n runs; half: half the width of its 95% interval, None for fewer than two."""

    mean: float
    half: float | None
    n: int


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """The arms in order of first appearance. A seed that comes twice begins another arm, so that
    nothing is counted as two draws that may be one."""
    found: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        settings = {key: given for key, given in run.config.items() if key != "seed"}
        same = json.dumps(settings, sort_keys=True, default=str)
        seed, turn = setting(run, "seed"), 0
        while any(setting(r, "seed") == seed for r in found.get((same, turn), ())):
            turn += 1
        found.setdefault((same, turn), []).append(run)
    arms = [Arm(label="", runs=members) for members in found.values()]
    names = labels([_place(arm, runs) for arm in arms])
    return [Arm(label=_named(a, n, runs), runs=a.runs) for a, n in zip(arms, names, strict=True)]


def setting(run: Run, key: str) -> Any:
    """The value of a dotted key in config.yaml, None where it is absent."""
    node: Any = run.config
    for part in key.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node.get(part)
    return node


def betas(arm: Arm) -> tuple[float, float] | None:
    """(beta_pos, beta_neg) of the config, None where the estimator has none."""
    pos, neg = (number(setting(arm.runs[0], key)) for key in BETAS)
    return None if pos is None or neg is None else (pos, neg)


def smooth(values: Sequence[float], keep: float = EMA) -> list[float]:
    """Moving average s_t = keep s_(t-1) + (1 - keep) x_t, s_0 = x_0 (paper: 0.7)."""
    smoothed: list[float] = []
    for here in values:
        smoothed.append(keep * smoothed[-1] + (1 - keep) * here if smoothed else here)
    return smoothed


def curve(arm: Arm, get: Callable[[Run], Series], smoothed: bool) -> Line | None:
    """A metric over steps, None where no run has it.

    Smoothed a run, then averaged at each step over the runs that have it; low and high are one
    standard error of that mean. Of a single run: its raw values, or unsmoothed its own errors.
    """
    found = [one for one in map(get, arm.runs) if one.values]
    if not found:
        return None
    lines = [smooth(one.values) if smoothed else one.values for one in found]
    if len(found) == 1:
        (one,), (y,) = found, lines
        if smoothed:
            return Line(x=one.steps, y=y, raw=one.values if len(y) > 1 else ())
        low = [v - e for v, e in zip(y, one.errors, strict=True)] if one.errors else []
        high = [v + e for v, e in zip(y, one.errors, strict=True)] if one.errors else []
        return Line(x=one.steps, y=y, low=low, high=high)
    at: dict[float, list[float]] = {}
    for one, y in zip(found, lines, strict=True):
        for step, here in zip(one.steps, y, strict=True):
            at.setdefault(step, []).append(here)
    return mean_line(at)


def mean_line(at: Mapping[float, Sequence[float]]) -> Line:
    """Means over runs by x; low and high are one standard error (the mean itself for one run)."""
    x = sorted(at)
    y = [sum(at[place]) / len(at[place]) for place in x]
    errors = [standard_error(at[place]) or 0.0 for place in x]
    return Line(
        x=x,
        y=y,
        low=[middle - error for middle, error in zip(y, errors, strict=True)],
        high=[middle + error for middle, error in zip(y, errors, strict=True)],
    )


def estimate(numbers: Sequence[float]) -> Estimate | None:
    """Student's t interval over runs: mean +- t(.975, n - 1) s / sqrt(n), s with n - 1.

    nan is left out; None where nothing is left.
    """
    known = [given for given in numbers if math.isfinite(given)]
    if not known:
        return None
    error, n = standard_error(known), len(known)
    if error is None:
        return Estimate(mean=known[0], half=None, n=1)
    from scipy import stats  # slow to load, and only arms of several seeds need it

    return Estimate(mean=sum(known) / n, half=float(stats.t.ppf(0.975, n - 1)) * error, n=n)


def finished(arm: Arm) -> list[Run]:
    """The runs that came as far as the farthest of the arm: only these have a last value."""
    farthest = max(run.rows[-1]["step"] for run in arm.runs)
    return [run for run in arm.runs if run.rows[-1]["step"] == farthest]


def kappa_hat(run: Run) -> float:
    """Mean of diag/kappa over the first 20 steps (the paper's Appendix E); nan without any."""
    kappas = series(run, "diag/kappa")
    early = [k for step, k in zip(kappas.steps, kappas.values, strict=True) if step <= KAPPA_STEPS]
    return sum(early) / len(early) if early else math.nan


def standard_error(numbers: Sequence[float]) -> float | None:
    """Of their mean, s / sqrt(n) with s to n - 1; None of fewer than two."""
    n = len(numbers)
    if n < 2:
        return None
    mean = sum(numbers) / n
    return math.sqrt(sum((given - mean) ** 2 for given in numbers) / (n - 1) / n)


def _place(arm: Arm, runs: Sequence[Run]) -> Path:
    """The folder that an arm is named by: the one that holds its runs and no other, if any."""
    folders = [run.folder for run in arm.runs]
    shared = Path(os.path.commonpath(folders))
    others = [run.folder for run in runs if run.folder not in folders]
    if len(folders) == 1 or any(folder.is_relative_to(shared) for folder in others):
        return folders[0]
    return shared


def _named(arm: Arm, name: str, runs: Sequence[Run]) -> str:
    more = len(arm.runs) - 1
    return f"{name} and {more} more" if more and _place(arm, runs) == arm.runs[0].folder else name
