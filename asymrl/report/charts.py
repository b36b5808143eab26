"""Decides which charts a report has: the paper's Figures 1 to 4 for any arms, and some more.

Knows metrics, estimators and what the captions say; `drawing` draws.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from asymrl.report.arms import (
    Arm,
    betas,
    evaluations_title,
    longest_runs,
    metric_curve,
    num_samples,
    settings_without,
    untrained_arm,
)
from asymrl.report.curves import equal_curves, estimator_curves, has_schedule, measured_mass
from asymrl.report.drawing import Chart, Drawing, draw, draw_bars, draw_heat_map, limits_of
from asymrl.report.runs import (
    Run,
    Series,
    accuracy,
    evaluation_sets,
    evaluations,
    phase_seconds,
    series,
    settings_of,
)
from asymrl.statistics import standard_error
from asymrl.types import frozen


@frozen
class FigureSection:
    """Figures under one heading. about: what they have in common."""

    title: str
    about: str
    drawings: Sequence[Drawing]


# Metric -> its chart over steps.
DYNAMICS: Mapping[str, Mapping[str, Any]] = {
    "policy/entropy": {
        "name": "entropy",
        "title": "Policy entropy",
        "unit": "entropy (nats per token)",
        "caption": "Mean over all response tokens, of the policy that generated them.",
        "scale": "entropy",
    },
    "reward/mean": {
        "name": "reward",
        "title": "Training reward",
        "unit": "mean reward (fraction correct)",
        "caption": "Fraction of the rollouts generated in the step with reward 1.",
        "fraction": True,
    },
    "groups/none_solved": {
        "name": "none_solved",
        "title": "None-solved groups",
        "unit": "groups (fraction)",
        "caption": "Prompts without a correct rollout.",
        "fraction": True,
    },
    "groups/all_solved": {
        "name": "all_solved",
        "title": "All-solved groups",
        "unit": "groups (fraction)",
        "caption": "Prompts with only correct rollouts.",
        "fraction": True,
    },
    "diag/logprob_gain_positive": {
        "name": "gain",
        "title": "Log-prob gain of correct rollouts",
        "unit": "gain (nats per token)",
        "caption": "Log-prob of the step's correct rollouts after its updates minus before.",
        "zero": True,
    },
}
MORE_METRICS: Mapping[str, Mapping[str, Any]] = {
    "policy/entropy_positive": {
        "name": "entropy_positive",
        "title": "Entropy, positive channel",
        "unit": "entropy (nats per token)",
        "caption": "Mean over the tokens of correct rollouts.",
        "scale": "entropy",
    },
    "policy/entropy_negative": {
        "name": "entropy_negative",
        "title": "Entropy, negative channel",
        "unit": "entropy (nats per token)",
        "caption": "Mean over the tokens of wrong rollouts.",
        "scale": "entropy",
    },
    "diag/kappa": {
        "name": "kappa",
        "title": "Kappa",
        "unit": "kappa (nats per token)",
        "caption": "Mean over groups with correct and wrong rollouts, before any update: p(1-p) "
        "log(p/(1-p)) times the mean log-prob of correct minus that of wrong rollouts (the "
        "paper's Appendix E).",
        "zero": True,
    },
}
FEW_EVALUATIONS = 24  # a moving average of fewer values lags far behind them
UNTRAINED = "Grey lines: the policy before training, by sampling setting."
BARS = "Bars: one standard error, over seeds if an arm has several, else over problems."
CURVES_ABOUT = (
    "Advantage and mass: what the estimator in each arm's config gives a group in which a fraction "
    "p of the rollouts is correct. They leave out token weights and clipping, which come after the "
    "estimator, and use the initial betas if a schedule changes them. Measured gradient mass: what "
    "the updates recorded, with token weights and clipping."
)
DYNAMICS_ABOUT = (
    "A step is one rollout batch. Strong lines are moving averages (0.7), faint lines the recorded "
    "values. An arm with several seeds shows the mean of their moving averages over the seeds that "
    "have the step; its band is one standard error over seeds."
)
FLIPS_ABOUT = (
    "GRPO, and GRPO with the advantage curve of one channel reflected at p = 1/2: the negative one "
    "in ent_increase, the positive one in ent_decrease. The curves are those above, for these arms "
    "only."
)
FLIPS = ("asym", "ent_increase", "ent_decrease")
CHANNELS = (
    ("positive", "A+", "W+", "correct", "p A+(p)"),
    ("negative", "A-", "W-", "wrong", "(1-p) |A-(p)|"),
)


def draw_all(arms: Sequence[Arm]) -> tuple[list[FigureSection], list[str]]:
    """Every figure that has data, and a note for each standard figure that has none."""
    names = evaluations([run for arm in arms for run in arm.runs])
    accuracies = _accuracy_charts(arms)
    dynamics, more = (
        {
            metric: _chart(arms, partial(series, metric=metric), **look)
            for metric, look in group.items()
        }
        for group in (DYNAMICS, MORE_METRICS)
    )
    phases = _phases(arms)
    notes = [
        f"No run has {metric}, so its figure is left out."
        for metric, chart in (dynamics | more).items()
        if not any(chart.curves.values())
    ]
    if not names:
        notes.append("No run has an evaluation, so the figure of held-out accuracy is left out.")
    if not phases:
        notes.append("No run has time/<phase>, so the figure of phase times is left out.")
    main = f"/{settings_of(names)[0]}" if names else ""
    over_steps = [*accuracies, *dynamics.values(), *_scheduled_betas(arms)]
    flips = _flips(arms, [dynamics["policy/entropy"], *accuracies[:1]])
    sections = [
        ("Advantage and gradient mass (Figure 1)", CURVES_ABOUT, _draw(_estimator_charts(arms))),
        ("Dynamics (Figure 2)", DYNAMICS_ABOUT, _draw(over_steps)),
        ("Flips (Figure 3)", FLIPS_ABOUT, _draw(flips)),
        ("Betas (Figure 4)", "", _heat_map(arms, [n for n in names if n.endswith(main)])),
        ("More metrics", "", [*_draw([*more.values()]), *phases]),
    ]
    return [
        FigureSection(title=title, about=about, drawings=drawings)
        for title, about, drawings in sections
        if drawings
    ], notes


def _draw(charts: Sequence[Chart]) -> list[Drawing]:
    """The charts that have data. Those with the same scale get the same y range."""
    full = [chart for chart in charts if any(chart.curves.values())]
    return [
        draw(c, limits_of([o for o in full if o is c or (c.scale and o.scale == c.scale)]))
        for c in full
    ]


def _chart(
    arms: Sequence[Arm], get: Callable[[Run], Series], smoothed: bool = True, **look: Any
) -> Chart:
    """A metric over steps."""
    curves = {i: metric_curve(arm, get, smoothed) for i, arm in enumerate(arms)}
    return Chart(labels=[arm.label for arm in arms], curves=curves, **look)


def _accuracy_charts(arms: Sequence[Arm]) -> list[Chart]:
    """Each evaluation, after the mean over benchmarks if there are several, and its pass@k if it
    has several samples. Smoothed from FEW_EVALUATIONS on."""
    runs = [run for arm in arms for run in arm.runs]
    charts: list[Chart] = []
    for names in evaluation_sets(runs):
        title, samples = evaluations_title(names), num_samples(runs, names)
        measures = {"avg": ("accuracy", "Held-out accuracy")}
        if samples:
            measures["pass_at_k"] = (f"pass_at_{samples}", f"Held-out pass@{samples}")
        for measure, (file, what) in measures.items():
            get = partial(accuracy, names=names, measure=measure)
            smoothed = max(len(get(run).values) for run in runs) >= FEW_EVALUATIONS
            name = f"{file}_{re.sub(r'[^A-Za-z0-9.-]+', '_', title)[:60]}"
            if any(chart.name == name for chart in charts):  # two evaluations give one file name
                name += f"_{len(charts)}"
            levels, about = _untrained_levels(arms, names, measure), []
            if len(names) > 1:
                about.append(f"Over {', '.join(name.split('/')[0] for name in names)}.")
            if not smoothed:
                about += [f"Fewer than {FEW_EVALUATIONS} evaluations: not smoothed.", BARS]
            if levels:
                about.append(UNTRAINED)
            chart = _chart(
                arms,
                get,
                smoothed,
                name=name,
                title=f"{what}, {title}",
                unit=f"{what.removeprefix('Held-out ')} (fraction)",
                caption=" ".join(about),
                fraction=True,
                dots=not smoothed,
                levels=levels,
            )
            charts.append(chart)
    return charts


def _untrained_levels(
    arms: Sequence[Arm], names: Sequence[str], measure: str
) -> list[tuple[str, float]]:
    """The untrained policy's accuracy on the benchmarks of `names`, each named: with every sampling
    setting for avg, with this one for pass@k."""
    if (arm := untrained_arm(arms)) is None:
        return []
    benchmarks, setting = [name.split("/")[0] for name in names], names[0].split("/")[1]
    settings = settings_of(evaluations(arm.runs)) if measure == "avg" else [setting]
    levels = []
    for one in settings:
        same = [f"{benchmark}/{one}" for benchmark in benchmarks]
        values = [v for run in arm.runs for v in accuracy(run, same, measure).values]
        if values:
            levels.append((f"untrained, {one}", sum(values) / len(values)))
    return levels


def _estimator_charts(arms: Sequence[Arm]) -> list[Chart]:
    """A, W and the measured mass of both channels over group accuracy."""
    by_arm = [estimator_curves(arm) for arm in arms]
    labels = [arm.label for arm in arms]
    x_label = "group accuracy p (fraction of rollouts correct)"
    chart = partial(Chart, labels=labels, x_label=x_label, zero=True)
    # With another aggregation the measured mass has another unit than W.
    comparable = all(arm.settings.get("loss.aggregation") == "token_mean" for arm in arms)
    charts = []
    for channel, a, w, side, formula in CHANNELS:
        scale = f"mass_{channel}" if comparable else ""
        advantages = [one.advantage[channel] if one else None for one in by_arm]
        masses = [one.mass[channel] if one else None for one in by_arm]
        charts += [
            chart(
                name=f"advantage_{channel}",
                title=f"Advantage {a}(p), {channel} channel",
                unit=f"advantage of a {side} rollout (no unit)",
                caption="From the configs. Estimators that use more than p: at equal log-probs."
                + equal_curves(labels, advantages),
                curves=dict(enumerate(advantages)),
            ),
            chart(
                name=f"mass_{channel}",
                title=f"Channel mass {w}(p)",
                unit="mean |advantage| per rollout of the group (no unit)",
                caption=f"{formula}, from the configs.{equal_curves(labels, masses)}",
                curves=dict(enumerate(masses)),
                scale=scale,
            ),
            chart(
                name=f"pressure_{channel}",
                title=f"Measured gradient mass, {channel} channel",
                unit="gradient mass / fraction of groups (no unit)",
                caption="Sum of |d loss / d log-prob| over the tokens of groups of accuracy p, "
                f"divided by the fraction of such groups, over all steps: {w} after clipping, with "
                "real lengths. Bars: one standard error over seeds.",
                curves={i: measured_mass(arm, channel) for i, arm in enumerate(arms)},
                dots=True,
                scale=scale,
            ),
        ]
    return charts


def _scheduled_betas(arms: Sequence[Arm]) -> list[Chart]:
    """The betas over steps, as recorded, of the arms whose schedule changes one of them."""
    scheduled = [
        i for i, a in enumerate(arms) if has_schedule(a, "beta_pos") or has_schedule(a, "beta_neg")
    ]
    charts = [
        _chart(
            arms,
            partial(series, metric=f"advantage/{beta}"),
            smoothed=False,
            name=beta,
            title=f"{beta} over steps",
            unit=f"{beta} (no unit)",
            caption="The value used at each step, for arms whose schedule changes a beta.",
            scale="betas",
        )
        for beta in ("beta_pos", "beta_neg")
    ]
    return [_only(chart, scheduled) for chart in charts]


def _only(chart: Chart, arms: Sequence[int], **changes: Any) -> Chart:
    """The chart with only these arms, which keep their colours."""
    return replace(chart, curves={i: chart.curves[i] for i in arms}, **changes)


def _flips(arms: Sequence[Arm], charts: Sequence[Chart]) -> list[Chart]:
    """The charts with only GRPO and its flips, if both exist and other arms do too.

    GRPO and its flips differ in nothing but the estimator. Of several such families, the largest.
    """
    families: dict[str, list[int]] = {}
    for i, arm in enumerate(arms):
        if arm.settings.get("advantage.name") in FLIPS and betas(arm) == (0.5, 0.5):
            same = settings_without(arm.settings, "advantage", "seed")
            families.setdefault(same, []).append(i)
    family = max(families.values(), key=len, default=[])
    names = {arms[i].settings["advantage.name"] for i in family}
    if FLIPS[0] not in names or len(names) < 2 or len(family) == len(arms):
        return []
    return [_only(chart, family, name=f"flips_{chart.name}", scale="") for chart in charts]


def _heat_map(arms: Sequence[Arm], names: Sequence[str]) -> list[Drawing]:
    """Final accuracy over (beta_pos, beta_neg), if arms that differ in nothing else fill at least
    two thirds of a grid of 2 by 2 or more. Of several such families, the largest."""
    families: dict[str, dict[tuple[float, float], tuple[str, list[float]]]] = {}
    for arm in arms if names else ():
        at = betas(arm)
        last = [scores[-1] for run in longest_runs(arm) if (scores := accuracy(run, names).values)]
        if at is None or not last:
            continue
        name = arm.settings.get("advantage.name")
        same = f"{name} {settings_without(arm.settings, 'advantage', 'seed')}"
        families.setdefault(same, {}).setdefault(at, (arm.label, last))
    cells = max(families.values(), key=len, default={})
    rows, columns = (len({at[axis] for at in cells}) for axis in (0, 1))
    if min(rows, columns) < 2 or 3 * len(cells) < 2 * rows * columns:
        return []
    caption = (
        f"Over {', '.join(name.split('/')[0] for name in names)}. Mean over seeds at the last "
        "evaluation in training, of arms that differ only in the betas. "
        f"{_precision([scores for _, scores in cells.values()])}"
    )
    title, unit = "Final accuracy by beta_pos and beta_neg", "held-out accuracy (fraction)"
    means = {at: (label, sum(scores) / len(scores)) for at, (label, scores) in cells.items()}
    return [draw_heat_map("heat_map", title, unit, caption, means)]


def _precision(cells: Sequence[Sequence[float]]) -> str:
    """Seeds per cell, and the root mean square of the cells' standard errors over seeds."""
    counts = sorted({len(scores) for scores in cells})
    seeds = f"Seeds per cell: {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}."
    squares = [standard_error(scores) ** 2 for scores in cells if len(scores) > 1]
    if not squares:
        return f"{seeds} The standard error of a cell cannot be estimated from one seed."
    typical = math.sqrt(sum(squares) / len(squares))
    return f"{seeds} Standard error of a cell, root mean square over cells: {typical:.3f}."


def _phases(arms: Sequence[Arm]) -> list[Drawing]:
    """Mean seconds of each phase over the training steps of an arm's runs."""
    means: list[Mapping[str, float]] = []
    for arm in arms:
        rows = [row for run in arm.runs for row in run.rows if row["step"] > 0]
        means.append({phase: spent / len(rows) for phase, spent in phase_seconds(rows).items()})
    if not any(means):
        return []
    names = [arm.label for arm in arms]
    caption = "Mean over the training steps. What runs at an interval is spread over all steps."
    unit = "time (seconds per step, mean)"
    return [draw_bars("phase_times", "Phase times", caption, unit, names, means)]
