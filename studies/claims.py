"""Decides the hypotheses from the results and writes docs/claims.md with its figure.

Knows hypotheses, statistics and the layout of the page; nothing about how runs are executed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from scipy import optimize, stats

from asymrl.files import write_atomically
from asymrl.report.drawing import GRID, MUTED, PAPER, figure_style
from asymrl.statistics import ALPHA, PairedTest, finite_mean, holm, paired_test, standard_error
from asymrl.types import frozen
from studies.hypotheses import ARMS, HYPOTHESES, Expected, Hypothesis
from studies.pages import budget, interval, markdown_table, save_figure, with_error
from studies.results import Result, Seed, by_seed, greedy, pass_at, tempered, unsolved_hard

SHOWN, OPPOSITE, UNDECIDED, UNMEASURABLE = "shown", "the opposite", "undecided", "not measurable"
NOT_RUN = "not run yet"
SIGNS = {1: "above", 0: "no difference", -1: "below"}
POWER = 0.8


@frozen
class Finding:
    """A hypothesis on a task. adjusted_p: Holm's, over the family of its kind. detectable: the
    mean that would have been found with a chance of POWER."""

    hypothesis: Hypothesis
    task: str
    numbers: Mapping[int, float]
    test: PairedTest
    adjusted_p: float
    detectable: float
    verdict: str
    reason: str = ""


def findings(task: str, seeds: Mapping[int, Seed]) -> list[Finding]:
    """Every hypothesis about the task. Holm's correction is over all hypotheses of one kind,
    whether they have run or not, except those that cannot be measured."""
    found = []
    asked = [h for h in HYPOTHESES if task in h.expected]
    for kind in dict.fromkeys(h.kind for h in asked):
        family = [h for h in asked if h.kind == kind]
        numbers, reasons = [], []
        for h in family:
            runs = complete_seeds(h, seeds)
            numbers.append({seed: h.measure(arms) for seed, arms in runs.items()})
            reasons.append(why_not(h, runs, numbers[-1]))
        tests = [paired_test(list(one.values())) for one in numbers]
        measurable = [i for i, (word, _) in enumerate(reasons) if word != UNMEASURABLE]
        raw = [p_value(family[i], tests[i]) if not reasons[i][0] else 1.0 for i in measurable]
        adjusted = dict(zip(measurable, holm(raw), strict=True))
        for i, h in enumerate(family):
            word, reason = reasons[i]
            p = adjusted.get(i, 1.0)
            found.append(
                Finding(
                    hypothesis=h,
                    task=task,
                    numbers=numbers[i],
                    test=tests[i],
                    adjusted_p=p,
                    detectable=detectable(tests[i], len(measurable)) if h.sign else math.nan,
                    verdict=word or verdict(h, tests[i], p),
                    reason=reason,
                )
            )
    return found


def why_not(
    hypothesis: Hypothesis, runs: Mapping[int, Seed], numbers: Mapping[int, float]
) -> tuple[str, str]:
    """A verdict that needs no test, with its reason; two empty texts if there is a test to make."""
    if len(runs) < 2:
        return NOT_RUN, "fewer than two seeds have all arms"
    if sum(map(math.isfinite, numbers.values())) < 2:
        return UNMEASURABLE, "the runs do not have the metric"
    reason = hypothesis.floor_or_ceiling(list(runs.values()))
    return (UNMEASURABLE, reason) if reason else ("", "")


def complete_seeds(hypothesis: Hypothesis, seeds: Mapping[int, Seed]) -> dict[int, Seed]:
    """The seeds for which all arms of the hypothesis have run."""
    return {n: seed for n, seed in seeds.items() if set(hypothesis.arms) <= seed.keys()}


def p_value(hypothesis: Hypothesis, test: PairedTest) -> float:
    """Two-sided. With a sign: the paired t test of "the mean is 0". Without one: twice the smaller
    p of "the mean is not within the margin" (two one-sided tests) and "the mean is within it".
    """
    if hypothesis.sign or test.n < 2:
        return test.p
    return min(1.0, 2 * min(p_inside(hypothesis, test), p_outside(hypothesis, test)))


def p_inside(hypothesis: Hypothesis, test: PairedTest) -> float:
    """p of the two one-sided tests (Schuirmann 1987): small if |mean| is below the margin."""
    return t_tail(test, hypothesis.margin - abs(test.mean))


def p_outside(hypothesis: Hypothesis, test: PairedTest) -> float:
    """Small if |mean| is above the margin."""
    return t_tail(test, abs(test.mean) - hypothesis.margin)


def t_tail(test: PairedTest, distance: float) -> float:
    """The upper tail of t at distance / standard error."""
    if not test.stderr:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / test.stderr, test.n - 1))


def verdict(hypothesis: Hypothesis, test: PairedTest, adjusted_p: float) -> str:
    """One rule for both directions: the adjusted p is below ALPHA, or nothing is decided."""
    if adjusted_p >= ALPHA:
        return UNDECIDED
    if hypothesis.sign:
        return SHOWN if test.mean * hypothesis.sign > 0 else OPPOSITE
    return SHOWN if abs(test.mean) < hypothesis.margin else OPPOSITE


def detectable(test: PairedTest, family: int) -> float:
    """The mean that a two-sided t test at ALPHA / family finds with a probability of POWER, if the
    standard deviation is the measured one: by the noncentral t distribution."""
    if not family or test.n < 2 or not test.stderr > 0:
        return math.nan
    needed = float(stats.t.ppf(1 - ALPHA / (2 * family), test.n - 1))

    def missing_power(standard_errors: float) -> float:
        return float(stats.nct.sf(needed, test.n - 1, standard_errors)) - POWER

    found = optimize.root_scalar(missing_power, bracket=(0.0, 10 * needed + 10))
    return float(found.root) * test.stderr


# --- the page

HEAD = """# The paper's claims, decided

{opening}

Generated by `python -m studies report claims` from the rows in [results/](results/); do not edit.
Section numbers are those of arXiv 2604.04894 v2. A hypothesis is about one number per seed: the
paper predicts the sign of its mean, or that it is within a margin of 0.

- *shown*: the mean is as predicted, with p below {alpha} in a paired t test (within a margin: two
  one-sided tests), after Holm's correction over the hypotheses of the same kind (accuracy, entropy,
  mechanism) on the same task.
- *the opposite*: the same rule, with the other sign (or outside the margin).
- *undecided*: everything else. The column "could find" is the mean difference that this test would
  have found with a probability of {power:.0%}.
- *not measurable*: a floor or ceiling effect; the quantity is near its minimum or maximum for every
  arm.

Accuracy is greedy, on held-out problems. An arm is a row of the README with overrides. The tasks:
`pocket`, sums of 3 to 6 numbers modulo 13 by a small policy that misremembers facts (kappa is
negative); `pocket_short`, sums of 2 and 3 numbers by a policy that misremembers more of them (kappa
is positive); `sums`, SmolLM2-135M-Instruct on additions of two numbers. On the pocket tasks each
seed has its own misremembered facts and its own initial policy; on `sums` all seeds train the same
pretrained model.
"""


def report_claims(docs: Path, results: Mapping[str, Sequence[Result]]) -> list[Path]:
    """Write claims.md and claims.png. results: by task."""
    seeds = {task: by_seed(runs) for task, runs in results.items() if runs}
    found = {task: findings(task, runs) for task, runs in seeds.items()}
    figure = draw(found, docs / "claims.png")
    text = [
        HEAD.format(opening=opening(found), alpha=ALPHA, power=POWER),
        "## Every statement, on every task",
        "",
        summary(found),
        "",
        "![Mean differences with 95% intervals](claims.png)",
        "",
    ]
    for task in found:
        text += [
            f"## {task}",
            "",
            arms_table(task, seeds[task]),
            "",
            *findings_tables(found[task]),
            repeat(task, seeds[task]),
            "",
        ]
    text += ["## What was spent", "", budget([one for runs in results.values() for one in runs])]
    write_atomically(docs / "claims.md", "\n".join(text) + "\n")
    return [docs / "claims.md", figure]


def opening(found: Mapping[str, Sequence[Finding]]) -> str:
    """Three sentences to quote: the counts, the central claim, the predictions."""
    everything = [
        one for findings in found.values() for one in findings if one.hypothesis.kind != "ours"
    ]
    words = [one.verdict for one in everything]
    counts = ", ".join(
        f"{words.count(word)} {word}"
        for word in (SHOWN, OPPOSITE, UNDECIDED, UNMEASURABLE, NOT_RUN)
        if word in words
    )
    central = [one for one in everything if "central claim" in one.hypothesis.section]
    told = "; ".join(
        f"{one.task} {one.test.mean:+.3f} ({one.test.low:+.3f} to {one.test.high:+.3f}, "
        f"{one.test.n} seeds), {one.verdict}"
        for one in central
        if one.verdict != NOT_RUN
    )
    decided = [one for one in everything if one.verdict in (SHOWN, OPPOSITE)]
    right = sum(predicted_right(one) for one in decided)
    return (
        f"Of {len(everything)} statements of the paper (counted once per task): {counts}. "
        f"The central claim, AsymGRPO (0.9, 0.4) above the tied betas (0.7, 0.7) in greedy "
        f"accuracy: {told}. Of the {len(decided)} decided statements we had predicted {right}."
    )


def outcome(one: Finding) -> int:
    """The sign of what was found; 0 if undecided or within the margin."""
    h = one.hypothesis
    if one.verdict not in (SHOWN, OPPOSITE) or (not h.sign and one.verdict == SHOWN):
        return 0
    return 1 if one.test.mean > 0 else -1


def predicted_right(one: Finding) -> bool:
    return outcome(one) == one.hypothesis.expected[one.task].sign


def summary(found: Mapping[str, Sequence[Finding]]) -> str:
    words = {(one.hypothesis.name, task): one.verdict for task in found for one in found[task]}
    rows = [
        [h.section, h.statement, *(emphasis(words.get((h.name, task), "-")) for task in found)]
        for h in HYPOTHESES
    ]
    return markdown_table(["section", "the paper says", *found], rows)


def emphasis(word: str) -> str:
    return f"**{word}**" if word in (SHOWN, OPPOSITE) else word


def arms_table(task: str, seeds: Mapping[int, Seed]) -> str:
    """Mean and standard error of every arm, the untrained policy first."""
    names = [arm.name for arm in ARMS[task] if any(arm.name in seed for seed in seeds.values())]
    samples = next(iter(next(iter(seeds.values())).values())).samples
    ks = [k for k in dict.fromkeys((1, 8, samples)) if k <= samples]
    rows = []
    for name in names:
        runs = [seed[name] for seed in seeds.values() if name in seed]
        bases = [seed["untrained"] for seed in seeds.values() if {name, "untrained"} <= seed.keys()]
        with_base = [seed[name] for seed in seeds.values() if {name, "untrained"} <= seed.keys()]
        columns = [
            [greedy(run) for run in runs],
            [tempered(run) for run in runs],
            *([pass_at(run, k) for run in runs] for k in ks),
        ]
        # the untrained policy's own samples chose the hard half
        hard = [unsolved_hard(a, b) for a, b in zip(with_base, bases, strict=True) if a != b]
        means = [
            with_error(finite_mean(column), standard_error(column)) for column in (*columns, hard)
        ]
        rows.append([name, str(len(runs)), *means])
    passes = [f"pass@{k}" for k in ks]
    header = ["arm", "seeds", "greedy", "T = 0.4", *passes, "hard half unsolved"]
    return markdown_table(header, rows)


def findings_tables(found: Sequence[Finding]) -> list[str]:
    lines = []
    for kind in dict.fromkeys(one.hypothesis.kind for one in found):
        rows = [row_of(one) for one in found if one.hypothesis.kind == kind]
        header = ["the paper says", "seeds", "mean", "95% interval", "p (Holm)", "could find"]
        header += ["verdict", "we predicted"]
        lines += [f"**{kind.capitalize()}**", "", markdown_table(header, rows), ""]
    return lines


def row_of(one: Finding) -> list[str]:
    h, test = one.hypothesis, one.test
    expected: Expected = h.expected[one.task]
    p = "< .001" if one.adjusted_p < 0.001 else f"{one.adjusted_p:.3f}"
    return [
        f"{h.statement} ({h.unit})",
        str(test.n),
        f"{test.mean:+.4f}" if math.isfinite(test.mean) else "-",
        interval(test),
        p if one.verdict in (SHOWN, OPPOSITE, UNDECIDED) else "-",
        "-" if math.isnan(one.detectable) else f"{one.detectable:.3f}",
        emphasis(one.verdict) + (f": {one.reason}" if one.reason else ""),
        f"{SIGNS[expected.sign]}: {expected.why}",
    ]


def repeat(task: str, seeds: Mapping[int, Seed]) -> str:
    """What the last quarter of the seeds says about the statements that the others decide."""
    first = dict(list(seeds.items())[: len(seeds) - len(seeds) // 4])
    held = kept = 0
    for one in findings(task, first):
        h = one.hypothesis
        fresh = [h.measure(arms) for n, arms in complete_seeds(h, seeds).items() if n not in first]
        if one.verdict not in (SHOWN, OPPOSITE) or not fresh:
            continue
        mean, held = finite_mean(fresh), held + 1
        inside = abs(mean) < h.margin
        kept += mean * one.test.mean > 0 if h.sign else inside == (one.verdict == SHOWN)
    if not held:
        return "Too few seeds to decide statements on three quarters of them and repeat the rest."
    return (
        f"**Repeated**: the first {len(first)} seeds decide {held} statements; the mean over the "
        f"other {len(seeds) - len(first)} seeds, with facts and initial policies of their own, is "
        f"on the same side in {kept}."
    )


# Okabe and Ito's blue and vermilion, and grey: distinguishable with colour blindness.
MARKERS = {SHOWN: ("#0072b2", "o"), OPPOSITE: ("#d55e00", "X"), UNDECIDED: ("#777777", "s")}
TICKS = (-10, -3, -1, 0, 1, 3, 10)


def draw(found: Mapping[str, Sequence[Finding]], file: Path) -> Path:
    """One row per hypothesis, one panel per task: mean and 95% interval, in standard deviations
    over seeds, so that nats and shares have one axis. Positive: the sign that the paper says."""
    names = [h.name for h in HYPOTHESES]
    with figure_style():
        figure = Figure(
            figsize=(11, 1.3 + 0.25 * len(names)), facecolor=PAPER, layout="constrained"
        )
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axes, task in zip(panels, found, strict=True):
            axes.axvline(0, color=MUTED, linewidth=0.8)
            for one in found[task]:
                if one.verdict not in MARKERS or one.test.n < 2:
                    continue
                colour, marker = MARKERS[one.verdict]
                sign, place = one.hypothesis.sign or 1, names.index(one.hypothesis.name)
                unit = one.test.stderr * math.sqrt(one.test.n) or abs(one.test.mean) or 1.0
                ends = sorted((sign * one.test.low / unit, sign * one.test.high / unit))
                axes.plot(ends, [place, place], color=colour, linewidth=1.6)
                axes.plot(sign * one.test.mean / unit, place, marker, color=colour, markersize=5)
            axes.set_title(task, loc="left", fontsize=9.5)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
            axes.minorticks_off()
            axes.grid(axis="x", color=GRID, linewidth=0.6)
        panels[0].set_yticks(range(len(names)), [h.statement for h in HYPOTHESES], fontsize=7)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        figure.supxlabel(
            "mean and 95% interval, in standard deviations over seeds. Right of 0: the direction "
            "that the paper predicts; for predictions of no difference: the first arm is higher",
            fontsize=8.5,
        )
        for word, (colour, marker) in MARKERS.items():
            panels[-1].plot([], [], marker, color=colour, label=word)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        return save_figure(figure, file)
