"""The report's tables: an arm's numbers with intervals over its seeds, and settings that differ.

Knows arms and how a number is written; nothing of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from asymrl.report_arms import Arm, Estimate, estimate, finished, kappa_hat, setting
from asymrl.report_runs import Run, Series, accuracy, minutes, number, series, with_mean
from asymrl.report_text import shortened

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
    return shortened(str(setting(run, "model.path") or "an unnamed model"), 48)


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
            flat[f"{prefix}{key}"] = shortened(str(given), 60)
    return flat
