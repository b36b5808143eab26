"""Which charts a report has: the paper's Figures 1 to 4 from any arms, and a few beside them.

Knows metrics, estimators and what to say of them; drawing is `report_figures`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib

from asymrl.report.arms import FEW, Arm, betas, curve, finished, setting, standard_error
from asymrl.report.curves import curves, measured, moving, one_curve
from asymrl.report.drawing import STYLE, Chart, Drawing, draw, draw_bars, draw_heat_map, limits_of
from asymrl.report.runs import Run, accuracy, benchmarks, phase_seconds, series, with_mean
from asymrl.types import frozen


@frozen
class Section:
    """Figures under one heading. about: what is common to them."""

    title: str
    about: str
    drawings: Sequence[Drawing]


@frozen
class Metric:
    """A metric over steps as a chart."""

    name: str
    metric: str
    title: str
    unit: str
    caption: str
    fraction: bool = False
    zero: bool = False
    scale: str = ""


DYNAMICS = (
    Metric(
        name="entropy",
        metric="policy/entropy",
        title="Policy entropy",
        unit="entropy (nats a token)",
        caption="Of the generating policy, over all response tokens.",
        scale="entropy",
    ),
    Metric(
        name="reward",
        metric="reward/mean",
        title="Training reward",
        unit="mean reward (fraction correct)",
        caption="Fraction of a step's rollouts that earned the reward.",
        fraction=True,
    ),
    Metric(
        name="none_solved",
        metric="groups/none_solved",
        title="None-solved groups",
        unit="groups (fraction)",
        caption="Prompts of which no rollout is correct.",
        fraction=True,
    ),
    Metric(
        name="all_solved",
        metric="groups/all_solved",
        title="All-solved groups",
        unit="groups (fraction)",
        caption="Prompts of which every rollout is correct.",
        fraction=True,
    ),
    Metric(
        name="gain",
        metric="diag/logprob_gain_positive",
        title="Log-prob gain of successes",
        unit="gain (nats a token)",
        caption="Log-prob of a step's correct rollouts after its updates minus before.",
        zero=True,
    ),
)
BESIDE = (
    Metric(
        name="entropy_positive",
        metric="policy/entropy_positive",
        title="Entropy, positive channel",
        unit="entropy (nats a token)",
        caption="Over the tokens of correct rollouts.",
        scale="entropy",
    ),
    Metric(
        name="entropy_negative",
        metric="policy/entropy_negative",
        title="Entropy, negative channel",
        unit="entropy (nats a token)",
        caption="Over the tokens of wrong rollouts.",
        scale="entropy",
    ),
    Metric(
        name="kappa",
        metric="diag/kappa",
        title="Kappa",
        unit="kappa (nats a token)",
        caption="Mean over the mixed groups, before any update, of p(1-p) log(p/(1-p)) times the "
        "mean log-prob of correct less that of wrong rollouts (the paper's Appendix E).",
        zero=True,
    ),
)
BARS = "Bars: one standard error, over seeds where an arm has several, else over problems."
CURVES_ABOUT = (
    "What the estimators of the arms' configs give to a group of which the share p is right, and "
    "what the updates measured. Token weights and clipping come after the estimator and show only "
    "in what was measured. Where a schedule moves the betas, the curves are those of its start."
)
DYNAMICS_ABOUT = (
    "A step is one rollout batch. Strong lines are moving averages (0.7), light ones the values as "
    "recorded. An arm of several seeds is the mean of their moving averages over the seeds that "
    "have the step, its band one standard error over seeds."
)
FLIPS_ABOUT = (
    "GRPO, and GRPO with one channel's advantage curve reflected at p = 1/2: the negative one in "
    "ent_increase, the positive one in ent_decrease. The same curves as above, these arms alone."
)
FLIPS = ("asym", "ent_increase", "ent_decrease")
CHANNELS = (("positive", "A+", "W+", "right"), ("negative", "A-", "W-", "wrong"))


def draw_all(arms: Sequence[Arm]) -> tuple[list[Section], list[str]]:
    """Every figure that has data, and a note for each of the usual ones that has none."""
    names = benchmarks([run for arm in arms for run in arm.runs])
    scores = _accuracies(arms)
    dynamics, beside = ([_chart(arms, m) for m in some] for some in (DYNAMICS, BESIDE))
    notes = [
        f"No run has {metric.metric}: the figure is left out."
        for metric, chart in zip((*DYNAMICS, *BESIDE), (*dynamics, *beside), strict=True)
        if not any(chart.lines)
    ]
    if not names:
        notes.append("No run has an evaluation, so the figure of held-out accuracy is left out.")
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page has the browser's fonts
        phases = _phases(arms)
        if not phases:
            notes.append("No run has time/<phase>: the figure of phase times is left out.")
        sections = [
            Section(
                title="Advantage and gradient mass (Figure 1)",
                about=CURVES_ABOUT,
                drawings=_drawn(_estimators(arms)),
            ),
            Section(
                title="Dynamics (Figure 2)",
                about=DYNAMICS_ABOUT,
                drawings=_drawn([*scores, *dynamics, *_moved_betas(arms)]),
            ),
            Section(
                title="Flips (Figure 3)",
                about=FLIPS_ABOUT,
                drawings=_drawn(_flips(arms, [*dynamics[:1], *scores[:1]])),
            ),
            Section(title="Betas (Figure 4)", about="", drawings=_heat_map(arms, names)),
            Section(title="Also", about="", drawings=[*_drawn(beside), *phases]),
        ]
    return [section for section in sections if section.drawings], notes


def final_accuracy(run: Run, names: Sequence[str]) -> float | None:
    """The mean over its benchmarks at the last evaluation, None where it had none."""
    scores = accuracy(run, names).values
    return scores[-1] if scores else None


def _drawn(charts: Sequence[Chart]) -> list[Drawing]:
    """Those that have data; those of one scale with one y range."""
    full = [chart for chart in charts if any(chart.lines)]
    return [
        draw(c, limits_of([o for o in full if o is c or (c.scale and o.scale == c.scale)]))
        for c in full
    ]


def _accuracies(arms: Sequence[Arm]) -> list[Chart]:
    """The mean over the benchmarks, where there are several, and each of them.

    Smoothed only where there are evaluations enough: the average of a few lags far behind them.
    """
    runs = [run for arm in arms for run in arm.runs]
    charts = []
    for names in with_mean(runs):
        get = partial(accuracy, names=names)
        smoothed = max(len(get(run).values) for run in runs) >= FEW
        title = names[0] if len(names) == 1 else "mean"
        name = f"accuracy_{re.sub(r'[^A-Za-z0-9.-]', '_', title)[:60]}"
        if any(chart.name == name for chart in charts):
            name += f"_{len(charts)}"  # another benchmark is written alike
        charts.append(
            Chart(
                name=name,
                title=f"Held-out accuracy, {title}",
                unit="accuracy (fraction)",
                caption=(f"Over {', '.join(names)}. " if len(names) > 1 else "")
                + ("" if smoothed else f"Not smoothed: fewer than {FEW} evaluations. {BARS}"),
                names=[arm.label for arm in arms],
                lines=[curve(arm, get, smoothed) for arm in arms],
                fraction=True,
                dots=not smoothed,
            )
        )
    return charts


def _chart(arms: Sequence[Arm], metric: Metric) -> Chart:
    """A metric over steps, smoothed."""
    return Chart(
        name=metric.name,
        title=metric.title,
        unit=metric.unit,
        caption=metric.caption,
        names=[arm.label for arm in arms],
        lines=[curve(arm, partial(series, metric=metric.metric), True) for arm in arms],
        fraction=metric.fraction,
        zero=metric.zero,
        scale=metric.scale,
    )


def _estimators(arms: Sequence[Arm]) -> list[Chart]:
    """A, W and the measured mass of both channels over group accuracy."""
    found = [curves(arm) for arm in arms]
    names, x_label = [arm.label for arm in arms], "group accuracy p (fraction of rollouts right)"
    alike = all(setting(arm.runs[0], "loss.aggregation") == "token_mean" for arm in arms)
    charts = []
    for channel, a, w, side in CHANNELS:
        common: dict[str, Any] = {"names": names, "x_label": x_label, "zero": True}
        advantages = [one.advantage[channel] if one else None for one in found]
        masses = [one.mass[channel] if one else None for one in found]
        charts += [
            Chart(
                name=f"advantage_{channel}",
                title=f"Advantage {a}(p), {channel} channel",
                unit=f"advantage of a {side} rollout (no unit)",
                caption="From the configs. Estimators that see more than p: at equal log-probs."
                + one_curve(names, advantages),
                lines=advantages,
                **common,
            ),
            Chart(
                name=f"mass_{channel}",
                title=f"Channel mass {w}(p)",
                unit="mean |advantage| a rollout of the group (no unit)",
                caption=f"{'p A+(p)' if a == 'A+' else '(1-p) |A-(p)|'}, from the configs."
                + one_curve(names, masses),
                lines=masses,
                scale=f"mass_{channel}" if alike else "",
                **common,
            ),
            Chart(
                name=f"pressure_{channel}",
                title=f"Measured gradient mass, {channel} channel",
                unit="gradient mass by share of groups (no unit)",
                caption="Sum of |d loss / d log-prob| over the tokens of groups of accuracy p, by "
                f"their share, all steps together: {w} after clipping, with real lengths. Bars: "
                "one standard error over seeds.",
                lines=[measured(arm, channel) for arm in arms],
                dots=True,
                scale=f"mass_{channel}" if alike else "",
                **common,
            ),
        ]
    return charts


def _moved_betas(arms: Sequence[Arm]) -> list[Chart]:
    """The betas over steps, as recorded, of the arms whose schedule moves one of them."""
    own = [arm for arm in arms if moving(arm, "beta_pos") or moving(arm, "beta_neg")]
    return [
        Chart(
            name=beta,
            title=f"{beta} over steps",
            unit=f"{beta} (no unit)",
            caption="As used in the step, of the arms whose schedule moves it.",
            names=[arm.label for arm in own],
            looks=[arms.index(arm) for arm in own],
            lines=[curve(arm, partial(series, metric=f"advantage/{beta}"), False) for arm in own],
            scale="betas",
        )
        for beta in ("beta_pos", "beta_neg")
        if own
    ]


def _flips(arms: Sequence[Arm], charts: Sequence[Chart]) -> list[Chart]:
    """The charts with GRPO and its flips alone, where both are there and others too. They differ
    in nothing but the estimator; of several such families it is the largest."""
    families: dict[str, list[int]] = {}
    for i, arm in enumerate(arms):
        if setting(arm.runs[0], "advantage.name") in FLIPS and betas(arm) == (0.5, 0.5):
            families.setdefault(_but_betas(arm), []).append(i)
    own = max(families.values(), key=len, default=[])
    names = {setting(arms[i].runs[0], "advantage.name") for i in own}
    if FLIPS[0] not in names or len(names) < 2 or len(own) == len(arms):
        return []
    return [
        Chart(
            name=f"flips_{chart.name}",
            title=chart.title,
            unit=chart.unit,
            caption=chart.caption,
            names=[chart.names[i] for i in own],
            looks=own,
            lines=[chart.lines[i] for i in own],
            fraction=chart.fraction,
            dots=chart.dots,
        )
        for chart in charts
    ]


def _heat_map(arms: Sequence[Arm], names: Sequence[str]) -> list[Drawing]:
    """Final accuracy over (beta_pos, beta_neg), where arms that differ in nothing else fill at
    least two thirds of a grid of 2 by 2 or more; of several such families the largest."""
    families: dict[str, dict[tuple[float, float], tuple[str, list[float]]]] = {}
    for arm in arms:
        at = betas(arm)
        scores = [final_accuracy(run, names) for run in finished(arm)]
        known = [score for score in scores if score is not None]
        if at is None or not known:
            continue
        name = setting(arm.runs[0], "advantage.name")
        family = families.setdefault(f"{name} {_but_betas(arm)}", {})
        family.setdefault(at, (arm.label, known))
    cells = max(families.values(), key=len, default={})
    rows, columns = (len({at[axis] for at in cells}) for axis in (0, 1))
    if min(rows, columns) < 2 or 3 * len(cells) < 2 * rows * columns:
        return []
    caption = (
        f"Over {', '.join(names)}. Mean over seeds at the last evaluation in training; arms that "
        f"differ in nothing but the betas. {_sure_of([scores for _, scores in cells.values()])}"
    )
    title, unit = "Final accuracy by beta_pos and beta_neg", "held-out accuracy (fraction)"
    means = {at: (label, sum(scores) / len(scores)) for at, (label, scores) in cells.items()}
    return [draw_heat_map("heat_map", title, unit, caption, means)]


def _sure_of(cells: Sequence[Sequence[float]]) -> str:
    """Seeds a cell, and the root mean square of the cells' standard errors over seeds."""
    counts = sorted({len(scores) for scores in cells})
    seeds = f"Seeds a cell: {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}."
    squares = [error**2 for scores in cells if (error := standard_error(scores)) is not None]
    if not squares:
        return f"{seeds} How sure a cell is cannot be said of one."
    typical = math.sqrt(sum(squares) / len(squares))
    return f"{seeds} Standard error of a cell, root mean square over cells: {typical:.3f}."


def _but_betas(arm: Arm) -> str:
    """All settings but the estimator and the seed, to know arms by that differ in nothing else."""
    rest = arm.runs[0].config.items()
    return repr(sorted((key, given) for key, given in rest if key not in ("advantage", "seed")))


def _phases(arms: Sequence[Arm]) -> list[Drawing]:
    """Mean seconds of each phase over the training steps of an arm's runs."""
    means: list[Mapping[str, float]] = []
    for arm in arms:
        num_steps = sum(row["step"] > 0 for run in arm.runs for row in run.rows)
        spent: dict[str, float] = {}
        for run in arm.runs:
            for phase, seconds in phase_seconds(run, training_only=True).items():
                spent[phase] = spent.get(phase, 0.0) + seconds / num_steps
        means.append(spent)
    caption = "Mean over the training steps; what runs on an interval is spread over them."
    names = [arm.label for arm in arms]
    unit = "time (seconds a step, mean)"
    drawn = draw_bars("phase_times", "Phase times", caption, unit, names, means)
    return [drawn] if any(means) else []
