"""Groups runs into arms, and computes the numbers of an arm: curves over steps and table cells.

An arm is all runs that differ only in their seed. Knows runs; knows nothing about pages or
drawings. The spread of a curve is one standard error over seeds, that of a table cell a 95% t
interval.
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
from asymrl.report.runs import (
    Run,
    Series,
    accuracy,
    as_number,
    benchmark_sets,
    kappa_hat,
    labels,
    minutes,
    series,
)
from asymrl.statistics import finite_mean, standard_error, t_half_width
from asymrl.types import frozen

EMA = 0.7  # the paper's
BETAS = ("advantage.beta_pos", "advantage.beta_neg")
NO_VALUE, MINUS, NBSP = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
Cell = tuple[str, str]  # text, small print


@frozen
class Arm:
    """Runs whose settings are equal except for `seed`, each with another seed."""

    label: str
    runs: Sequence[Run]


@frozen
class Curve:
    """y over x, with a spread from low to high and unsmoothed values (raw); each may be empty."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    raw: Sequence[float] = ()


def group_into_arms(runs: Sequence[Run]) -> list[Arm]:
    """The arms, in order of first appearance.

    A second run with the same settings and seed starts another arm: the two may be one draw, and
    counting them as two would understate the error.
    """
    members: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        settings, seed, turn = settings_without(run, "seed"), setting(run, "seed"), 0
        while any(setting(r, "seed") == seed for r in members.get((settings, turn), ())):
            turn += 1
        members.setdefault((settings, turn), []).append(run)
    arms = [Arm(label="", runs=group) for group in members.values()]
    names = labels([_folder_of(arm, runs) for arm in arms])
    return [
        Arm(label=_with_count(arm, name, runs), runs=arm.runs)
        for arm, name in zip(arms, names, strict=True)
    ]


def setting(run: Run, key: str) -> Any:
    """The value of a dotted key of config.yaml, None if it is absent."""
    node: Any = run.config
    for part in key.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node.get(part)
    return node


def settings_without(run: Run, *sections: str) -> str:
    """All settings but those top-level keys, as text that is equal for equal settings."""
    settings = {key: value for key, value in run.config.items() if key not in sections}
    return json.dumps(settings, sort_keys=True, default=str)


def betas(arm: Arm) -> tuple[float, float] | None:
    """(beta_pos, beta_neg) of the config, None if the estimator has none."""
    pos, neg = (as_number(setting(arm.runs[0], key)) for key in BETAS)
    return None if math.isnan(pos + neg) else (pos, neg)


def moving_average(values: Sequence[float], keep: float = EMA) -> list[float]:
    """s_t = keep s_(t-1) + (1 - keep) x_t, with s_0 = x_0."""
    smoothed: list[float] = []
    for value in values:
        smoothed.append(keep * smoothed[-1] + (1 - keep) * value if smoothed else value)
    return smoothed


def metric_curve(arm: Arm, get: Callable[[Run], Series], smoothed: bool) -> Curve | None:
    """A metric over steps, None if no run has it.

    Each run is smoothed on its own, then the runs that have a step are averaged there; low and high
    are one standard error of that mean. A single run has its unsmoothed values as `raw`, or, if
    `smoothed` is False, its own standard errors as the spread.
    """
    found = [metric for metric in map(get, arm.runs) if metric.values]
    if not found:
        return None
    smooth = moving_average if smoothed else list
    if len(found) > 1:
        at: dict[float, list[float]] = {}
        for metric in found:
            for step, value in zip(metric.steps, smooth(metric.values), strict=True):
                at.setdefault(step, []).append(value)
        return mean_curve(at)
    (metric,) = found
    y = smooth(metric.values)
    if smoothed:
        return Curve(x=metric.steps, y=y, raw=metric.values if len(y) > 1 else ())
    return _with_spread(metric.steps, y, metric.errors)


def mean_curve(at: Mapping[float, Sequence[float]]) -> Curve:
    """x -> values of the runs, as means with one standard error (0 for a single run)."""
    x = sorted(at)
    y = [sum(at[place]) / len(at[place]) for place in x]
    return _with_spread(
        x, y, [standard_error(at[place]) if len(at[place]) > 1 else 0.0 for place in x]
    )


def _with_spread(x: Sequence[float], y: Sequence[float], errors: Sequence[float]) -> Curve:
    """y - error to y + error; no spread if there are no errors."""
    pairs = list(zip(y, errors, strict=False))
    return Curve(x=x, y=y, low=[v - e for v, e in pairs], high=[v + e for v, e in pairs])


def mean_over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95% t interval: t(.975, n - 1) s / sqrt(n), where s
    divides by n - 1. nan values are left out. One value has no half width (nan), none no mean."""
    known = [value for value in values if math.isfinite(value)]
    return finite_mean(known), t_half_width(standard_error(known), len(known) - 1)


def longest_runs(arm: Arm) -> list[Run]:
    """The runs that have reached the arm's last step. Only these have a last value."""
    last_step = max(run.rows[-1]["step"] for run in arm.runs)
    return [run for run in arm.runs if run.rows[-1]["step"] == last_step]


def table_head(arms: Sequence[Arm]) -> list[Cell]:
    """(name, unit) of each column after the arm's name."""
    accuracies = [
        column
        for name, _ in _accuracies(arms)
        for column in ((f"Held-out {name}", "accuracy, fraction"), ("Gain", f"{name}, fraction"))
    ]
    return [
        ("Method", ""),
        *accuracies,
        ("Reward", "mean, fraction"),
        ("Entropy", "nats per token"),
        ("κ\N{COMBINING CIRCUMFLEX ACCENT}", "nats per token, 20 steps"),
        ("Seeds", ""),
        ("Steps", "done"),
        ("Time", "minutes per run"),
        ("Model", ""),
    ]


def table_row(arm: Arm, arms: Sequence[Arm]) -> dict[str, Any]:
    """The arm's label and cells. First and last values are those of `longest_runs`."""
    runs, first = longest_runs(arm), arm.runs[0]
    steps, planned = runs[0].rows[-1]["step"], as_number(setting(first, "steps"))
    seeds = [setting(run, "seed") for run in arm.runs]
    spent = [minutes(run) for run in runs]
    reward, entropy = (partial(series, metric=m) for m in ("reward/mean", "policy/entropy"))
    behind = len(runs) < len(arm.runs)
    cells = [
        (method(first), ""),
        *(
            cell
            for _, get in _accuracies(arms)
            for cell in (_first_to_last(runs, get), _gain(runs, get))
        ),
        _first_to_last(runs, reward),
        _first_to_last(runs, entropy),
        (_with_interval([kappa_hat(run.rows) for run in arm.runs]), ""),
        (
            ", ".join(NO_VALUE if seed is None else str(seed) for seed in seeds),
            f"last values: {len(runs)} of {len(arm.runs)} runs" if behind else "",
        ),
        (str(steps), "" if math.isnan(planned) or planned == steps else f"of {planned:.0f}"),
        (f"{sum(spent) / len(spent):.1f}" if any(spent) else NO_VALUE, ""),
        (model(first), ""),
    ]
    return {"label": arm.label, "cells": cells}


def method(run: Run) -> str:
    """The estimator's name, with its betas if the config has them: `asym (β+ 0.7, β- 0.3)`."""
    values = [
        f"{sign}{NBSP}{setting(run, key)}"
        for sign, key in zip(("β+", f"β{MINUS}"), BETAS, strict=True)
        if setting(run, key) is not None
    ]
    name = str(setting(run, "advantage.name") or "unknown method")
    return f"{name} ({', '.join(values)})" if values else name


def model(run: Run) -> str:
    return shorten(str(setting(run, "model.path") or "an unnamed model"), 48)


def differing_settings(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """(dotted key, its value in each arm) of every setting that is not the same in all arms.

    The seed is left out if some arm has several.
    """
    flat = [_flat(arm.runs[0].config) for arm in arms]
    keys = {key for settings in flat for key in settings}
    if any(len(arm.runs) > 1 for arm in arms):
        keys.discard("seed")
    table = [(key, [settings.get(key, NO_VALUE) for settings in flat]) for key in sorted(keys)]
    return [(key, values) for key, values in table if len(set(values)) > 1]


def _folder_of(arm: Arm, runs: Sequence[Run]) -> Path:
    """The folder that names an arm: the one that holds its runs and no other run, if there is one,
    else the folder of its first run."""
    folders = [run.folder for run in arm.runs]
    shared = Path(os.path.commonpath(folders))
    others = [run.folder for run in runs if run.folder not in folders]
    if len(folders) == 1 or any(folder.is_relative_to(shared) for folder in others):
        return folders[0]
    return shared


def _with_count(arm: Arm, name: str, runs: Sequence[Run]) -> str:
    more = len(arm.runs) - 1
    return (
        f"{name} and {more} more" if more and _folder_of(arm, runs) == arm.runs[0].folder else name
    )


def _accuracies(arms: Sequence[Arm]) -> list[tuple[str, Callable[[Run], Series]]]:
    """(name, series) of each benchmark, after their mean if there are several."""
    return [
        (names[0] if len(names) == 1 else "mean", partial(accuracy, names=names))
        for names in benchmark_sets([run for arm in arms for run in arm.runs])
    ]


def _first_to_last(runs: Sequence[Run], get: Callable[[Run], Series]) -> Cell:
    """`first → last`, with the steps as small print.

    +- is a 95% t interval over several runs, or the standard error that a single run recorded.
    """
    found = [metric for metric in map(get, runs) if metric.values]
    if not found:
        return NO_VALUE, ""
    ends = (0, -1) if any(len(metric.values) > 1 for metric in found) else (0,)
    if len(found) > 1:
        texts = [_with_interval([m.values[i] for m in found]) for i in ends]
    else:
        (only,) = found
        errors = [f" ± {error:.3f}" for error in only.errors] or [""] * len(only.values)
        texts = [f"{only.values[i]:.3f}{errors[i]}" for i in ends]
    steps = " → ".join(str(found[0].steps[i]) for i in ends)
    return " → ".join(texts), f"step{'s' * (len(ends) > 1)} {steps}"


def _gain(runs: Sequence[Run], get: Callable[[Run], Series]) -> Cell:
    """Last minus first. A single run has no error here: its two evaluations share problems, so
    their errors are not independent."""
    gains = [m.values[-1] - m.values[0] for m in map(get, runs) if len(m.values) > 1]
    return _with_interval(gains, "+"), ""


def _with_interval(values: Sequence[float], sign: str = "") -> str:
    middle, half_width = mean_over_seeds(values)
    text = f"{middle:{sign}.3f}".replace("-", MINUS) if math.isfinite(middle) else NO_VALUE
    return f"{text} ± {half_width:.3f}" if math.isfinite(half_width) else text


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = shorten(str(value), 60)
    return flat
