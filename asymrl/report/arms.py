"""Runs that differ only in their seed, as one arm: means over its seeds, and how sure they are.

Knows runs and their numbers; nothing of pages or drawings. In curves the spread is one standard
error, in the table a 95% interval.

The report's tables: an arm's numbers with intervals over its seeds, and settings that differ.

Knows arms and how a number is written; nothing of the page.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from asymrl.errors import shorten
from asymrl.report.runs import Run, Series, accuracy, labels, minutes, number, series, with_mean
from asymrl.types import frozen

EMA = 0.7
FEW = 8  # values; a moving average of fewer would lag far behind them
KAPPA_STEPS = 20
BETAS = ("advantage.beta_pos", "advantage.beta_neg")


@frozen
class Arm:
    """Runs with equal settings but for `seed`, of which each has its own."""

    label: str
    runs: Sequence[Run]


@frozen
class Line:
    """A curve of one arm: y over x, low to high about it (or empty), and, fainter, raw values."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    raw: Sequence[float] = ()


@frozen
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


NONE, MINUS, SPACE = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
Cell = tuple[str, str]  # text, small print


def table_head(arms: Sequence[Arm]) -> list[Cell]:
    """(name, unit) of each column after the arm's own."""
    return [
        ("Method", ""),
        *(column for name, _ in _scores(arms) for column in _score_head(name)),
        ("Reward", "mean, fraction"),
        ("Entropy", "nats a token"),
        ("κ\N{COMBINING CIRCUMFLEX ACCENT}", "nats a token, 20 steps"),
        ("Seeds", ""),
        ("Steps", "done"),
        ("Time", "minutes a run"),
        ("Model", ""),
    ]


def table_row(arm: Arm, arms: Sequence[Arm]) -> dict[str, Any]:
    """An arm's cells. Last values are over the runs that came as far as the farthest of the arm."""
    runs = finished(arm)
    steps, planned = runs[0].rows[-1]["step"], setting(arm.runs[0], "steps")
    seeds = [setting(run, "seed") for run in arm.runs]
    spent = [minutes(run) for run in runs]
    reward, entropy = (partial(series, metric=m) for m in ("reward/mean", "policy/entropy"))
    cells = [
        (method(arm.runs[0]), ""),
        *(cell for _, get in _scores(arms) for cell in (_from_to(runs, get), _gain(runs, get))),
        _from_to(runs, reward),
        _from_to(runs, entropy),
        (_written(estimate([kappa_hat(run) for run in arm.runs])), ""),
        (", ".join(NONE if seed is None else str(seed) for seed in seeds), _left_behind(arm)),
        (str(steps), f"of {planned}" if number(planned) not in (None, steps) else ""),
        (f"{sum(spent) / len(spent):.1f}" if any(spent) else NONE, ""),
        (model(arm.runs[0]), ""),
    ]
    return {"label": arm.label, "cells": cells}


def _left_behind(arm: Arm) -> str:
    """Small print where not every seed is in the last values."""
    ahead, all_runs = len(finished(arm)), len(arm.runs)
    return "" if ahead == all_runs else f"last values: {ahead} of {all_runs} runs"


def method(run: Run) -> str:
    """The estimator's name and its betas where the config has them: `asym (β+ 0.7, β- 0.3)`."""
    betas = [
        f"{sign}{SPACE}{setting(run, key)}"
        for sign, key in (("β+", "advantage.beta_pos"), (f"β{MINUS}", "advantage.beta_neg"))
        if setting(run, key) is not None
    ]
    name = str(setting(run, "advantage.name") or "unknown method")
    return f"{name} ({', '.join(betas)})" if betas else name


def model(run: Run) -> str:
    return shorten(str(setting(run, "model.path") or "an unnamed model"), 48)


def differences(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all arms: dotted key, its value in each; the seed is
    one where some arm has no other."""
    flat = [_flat(arm.runs[0].config) for arm in arms]
    if any(len(arm.runs) > 1 for arm in arms):
        flat = [{key: v for key, v in settings.items() if key != "seed"} for settings in flat]
    keys = sorted({key for settings in flat for key in settings})
    table = [(key, [settings.get(key, NONE) for settings in flat]) for key in keys]
    return [(key, given) for key, given in table if len(set(given)) > 1]


def _scores(arms: Sequence[Arm]) -> list[tuple[str, Callable[[Run], Series]]]:
    """Each benchmark, and first their mean where there are several."""
    return [
        (names[0] if len(names) == 1 else "mean", partial(accuracy, names=names))
        for names in with_mean([run for arm in arms for run in arm.runs])
    ]


def _score_head(name: str) -> list[Cell]:
    return [(f"Held-out {name}", "accuracy, fraction"), ("Gain", f"{name}, fraction")]


def _from_to(runs: Sequence[Run], get: Callable[[Run], Series]) -> Cell:
    """`first → last`, each with what is known of its error; the steps are small print.

    Over several runs +- is a 95% t interval over them; of one it is its own standard error.
    """
    curves = [one for one in map(get, runs) if one.values]
    if not curves:
        return NONE, ""
    ends = (0, -1) if any(len(one.values) > 1 for one in curves) else (0,)
    steps = " → ".join(str(curves[0].steps[i]) for i in ends)
    small = f"step{'s' * (len(ends) > 1)} {steps}"
    if len(curves) > 1:
        said = [_written(estimate([one.values[i] for one in curves])) for i in ends]
        return " → ".join(said), small
    (one,) = curves
    errors = [f" ± {error:.3f}" for error in one.errors] or [""] * len(one.values)
    said = [f"{one.values[i]:.3f}{errors[i]}" for i in ends]
    return " → ".join(said), small


def _gain(runs: Sequence[Run], get: Callable[[Run], Series]) -> Cell:
    """Last minus first, over several runs with its 95% interval. Of one run without an error: its
    two evaluations share problems, so theirs do not add up."""
    gains = [c.values[-1] - c.values[0] for c in map(get, runs) if len(c.values) > 1]
    return _written(estimate(gains), "+"), ""


def _written(of: Estimate | None, sign: str = "") -> str:
    if of is None:
        return NONE
    text = f"{of.mean:{sign}.3f}".replace("-", MINUS)
    return text if of.half is None else f"{text} ± {of.half:.3f}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, given in settings.items():
        if isinstance(given, Mapping):
            flat |= _flat(given, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = shorten(str(given), 60)
    return flat
