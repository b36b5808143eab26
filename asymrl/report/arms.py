"""Groups runs into arms, and computes the numbers of an arm: curves over steps and table cells.

An arm is all runs that differ only in their seed. Knows runs; knows nothing about pages or
drawings. The spread of a curve and the ± of a table cell are the same: one standard error over
seeds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from asymrl.errors import shorten
from asymrl.files import distinct_names
from asymrl.report.runs import (
    Run,
    Series,
    accuracy,
    as_number,
    evaluation_sets,
    kappa_hat,
    minutes,
    series,
    untrained,
)
from asymrl.statistics import estimate_mean, standard_error
from asymrl.types import frozen
from asymrl.verifiers.reasoning_gym import PREFIX

EMA = 0.7  # the paper's
BETAS = ("advantage.beta_pos", "advantage.beta_neg")
NO_VALUE, MINUS, NBSP = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
Cell = tuple[str, str]  # text, small print


@frozen
class Arm:
    """Runs whose settings are equal except for `seed`, each with another seed."""

    label: str
    runs: Sequence[Run]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the first run: dotted key -> value."""
        return self.runs[0].settings


@frozen
class Curve:
    """y over x, with a spread from low to high and unsmoothed values (raw); each may be empty."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    raw: Sequence[float] = ()


Column = tuple[str, str, Callable[[Arm], Cell]]  # name, unit, the cell of an arm


def group_into_arms(runs: Sequence[Run], names: Mapping[Path, str] | None = None) -> list[Arm]:
    """The arms, in order of first appearance. names: run folder -> the name of its arm; arms
    without one are named after their folder.

    A second run with the same settings and seed starts another arm: the two may be one draw, and
    counting them as two would understate the error.
    """
    members: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        settings, seed, turn = settings_without(run.settings, "seed"), run.settings.get("seed"), 0
        while any(r.settings.get("seed") == seed for r in members.get((settings, turn), ())):
            turn += 1
        members.setdefault((settings, turn), []).append(run)
    folders = [_folder_of(group, runs) for group in members.values()]
    arms = []
    for name, folder, group in zip(distinct_names(folders), folders, members.values(), strict=True):
        more = len(group) - 1 if folder == group[0].folder else 0
        label = f"{name} and {more} more" if more else name
        arms.append(Arm(label=(names or {}).get(group[0].folder, label), runs=group))
    return arms


def _folder_of(group: Sequence[Run], runs: Sequence[Run]) -> Path:
    """The folder that names an arm: the one that holds its runs and no other run, if there is one,
    else the folder of its first run."""
    shared = Path(os.path.commonpath([run.folder for run in group]))
    others = [run for run in runs if run not in group]
    return group[0].folder if any(o.folder.is_relative_to(shared) for o in others) else shared


def settings_without(settings: Mapping[str, Any], *sections: str) -> str:
    """All settings but those sections, as text that is equal for equal settings."""
    return repr(sorted(item for item in settings.items() if item[0].split(".")[0] not in sections))


def betas(arm: Arm) -> tuple[float, float] | None:
    """(beta_pos, beta_neg) of the config, None if the estimator has none."""
    pos, neg = (as_number(arm.settings.get(key)) for key in BETAS)
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
    recorded = _recorded(arm.runs, get)
    if not recorded:
        return None
    smooth = moving_average if smoothed else list
    if len(recorded) > 1:
        at: dict[float, list[float]] = {}
        for metric in recorded:
            for step, value in zip(metric.steps, smooth(metric.values), strict=True):
                at.setdefault(step, []).append(value)
        return mean_curve(at)
    (metric,) = recorded
    y = smooth(metric.values)
    if smoothed:
        return Curve(x=metric.steps, y=y, raw=metric.values if len(y) > 1 else ())
    return _with_spread(metric.steps, y, metric.errors)


def _recorded(runs: Sequence[Run], get: Callable[[Run], Series]) -> list[Series]:
    """The series of the runs that have any values."""
    return [metric for metric in map(get, runs) if metric.values]


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


def longest_runs(arm: Arm) -> list[Run]:
    """The runs that have reached the arm's last step. Only these have a last value."""
    last_step = max(run.rows[-1]["step"] for run in arm.runs)
    return [run for run in arm.runs if run.rows[-1]["step"] == last_step]


def table_columns(arms: Sequence[Arm]) -> list[Column]:
    """The columns of the table of arms. First and last values are those of `longest_runs`."""
    columns: list[Column] = [("Method", "", lambda arm: (method(arm), ""))]
    runs = [run for arm in arms for run in arm.runs]
    for names in evaluation_sets(runs):
        name, get = evaluations_title(names), partial(accuracy, names=names)
        columns += [
            (f"Held-out {name}", "accuracy, fraction", partial(_first_to_last, get=get)),
            ("Gain", f"{name}, fraction", partial(_gain, get=get)),
        ]
        if samples := num_samples(runs, names):
            passed = partial(accuracy, names=names, measure="pass_at_k")
            cell = partial(_first_to_last, get=passed)
            columns.append((f"pass@{samples}", f"{name}, fraction", cell))
    reward, entropy = (
        partial(_first_to_last, get=partial(series, metric=metric))
        for metric in ("reward/mean", "policy/entropy")
    )
    return [
        *columns,
        ("Reward", "mean, fraction", reward),
        ("Entropy", "nats per token", entropy),
        ("κ\N{COMBINING CIRCUMFLEX ACCENT}", "nats per token, 20 steps", _kappa),
        ("Seeds", "", _seeds),
        ("Steps", "done", _steps),
        ("Time", "minutes per run", _minutes),
        ("Model", "", lambda arm: (model(arm), "")),
    ]


def evaluations_title(names: Sequence[str]) -> str:
    """ "math500, greedy", or "mean, greedy" for several benchmarks. A task of reasoning-gym has its
    own name only: the prefix would leave no room for it."""
    benchmark, setting = names[0].removeprefix(PREFIX).split("/")
    return f"{benchmark if len(names) == 1 else 'mean'}, {setting}"


def num_samples(runs: Sequence[Run], names: Sequence[str]) -> int | None:
    """The samples per problem of these evaluations, if they are several and all runs agree."""
    key = f"eval.sampling.{names[0].split('/')[1]}.samples"
    counts = {as_number(run.settings[key]) for run in runs if key in run.settings}
    return int(max(counts)) if len(counts) == 1 and max(counts) > 1 else None


def untrained_arm(arms: Sequence[Arm]) -> Arm | None:
    """The policies before training as an arm; None if no run was evaluated at step 0."""
    runs = untrained([run for arm in arms for run in arm.runs])
    return Arm(label="untrained policy", runs=runs) if runs else None


def method(arm: Arm) -> str:
    """The estimator's name, with its betas if the config has them: `asym (β+ 0.7, β- 0.3)`; a dash
    for the untrained policy."""
    if all(run.rows[-1]["step"] == 0 for run in arm.runs):
        return NO_VALUE
    values = [
        f"{sign}{NBSP}{arm.settings[key]}"
        for sign, key in zip(("β+", f"β{MINUS}"), BETAS, strict=True)
        if arm.settings.get(key) is not None
    ]
    name = str(arm.settings.get("advantage.name") or "unknown method")
    return f"{name} ({', '.join(values)})" if values else name


def model(arm: Arm) -> str:
    return shorten(str(arm.settings.get("model.path") or "an unnamed model"), 48)


def differing_settings(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """(dotted key, its value in each arm) of every setting that is not the same in all arms.

    The seed is left out if some arm has several.
    """
    keys = {key for arm in arms for key in arm.settings}
    if any(len(arm.runs) > 1 for arm in arms):
        keys.discard("seed")
    rows = [
        (key, [shorten(str(arm.settings.get(key, NO_VALUE)), 60) for arm in arms])
        for key in sorted(keys)
    ]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _first_to_last(arm: Arm, get: Callable[[Run], Series]) -> Cell:
    """`first → last`, with the steps as small print.

    ± is one standard error: over several runs, or over problems as a single run recorded it.
    """
    recorded = _recorded(longest_runs(arm), get)
    if not recorded:
        return NO_VALUE, ""
    ends = (0, -1) if any(len(metric.values) > 1 for metric in recorded) else (0,)
    if len(recorded) > 1:
        texts = [_with_error([metric.values[i] for metric in recorded]) for i in ends]
    else:
        (only,) = recorded
        errors = [f" ± {error:.3f}" for error in only.errors] or [""] * len(only.values)
        texts = [f"{only.values[i]:.3f}{errors[i]}" for i in ends]
    steps = " → ".join(str(recorded[0].steps[i]) for i in ends)
    return " → ".join(texts), f"step{'s' * (len(ends) > 1)} {steps}"


def _gain(arm: Arm, get: Callable[[Run], Series]) -> Cell:
    """Last minus first. A single run has no error here: its two evaluations share problems, so
    their errors are not independent."""
    recorded = [metric.values for metric in map(get, longest_runs(arm)) if len(metric.values) > 1]
    return _with_error([values[-1] - values[0] for values in recorded], "+"), ""


def _kappa(arm: Arm) -> Cell:
    return _with_error([kappa_hat(run.rows) for run in arm.runs]), ""


def _seeds(arm: Arm) -> Cell:
    seeds = [run.settings.get("seed") for run in arm.runs]
    text = ", ".join(NO_VALUE if seed is None else str(seed) for seed in seeds)
    longest = len(longest_runs(arm))
    return text, f"last values: {longest} of {len(seeds)} runs" if longest < len(seeds) else ""


def _steps(arm: Arm) -> Cell:
    steps, planned = longest_runs(arm)[0].rows[-1]["step"], as_number(arm.settings.get("steps"))
    return str(steps), "" if math.isnan(planned) or planned == steps else f"of {planned:.0f}"


def _minutes(arm: Arm) -> Cell:
    spent = [minutes(run) for run in longest_runs(arm)]
    return f"{sum(spent) / len(spent):.1f}" if any(spent) else NO_VALUE, ""


def _with_error(values: Sequence[float], sign: str = "") -> str:
    """The mean ± one standard error. Values that are nan are left out. One value has no error, none
    no mean."""
    mean = estimate_mean([value for value in values if math.isfinite(value)])
    text = f"{mean.value:{sign}.3f}".replace("-", MINUS) if mean.df >= 0 else NO_VALUE
    return f"{text} ± {mean.stderr:.3f}" if math.isfinite(mean.stderr) else text
