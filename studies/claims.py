"""Tests the paper's claims: records the predictions before the runs, then writes claims.md.

Knows hypotheses, statistics and the layout of the document; nothing about how runs are executed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from asymrl.files import read_json, write_atomically
from asymrl.report.drawing import GRID, MUTED, PAPER, figure_style
from asymrl.statistics import (
    ALPHA,
    Conclusion,
    PairedTest,
    conclude,
    finite_mean,
    holm,
    paired_test,
    t_half_width,
)
from asymrl.types import frozen
from studies import measures
from studies.hypotheses import CLAIMS, HYPOTHESES, Hypothesis
from studies.jobs import MIXES, Job
from studies.results import Seed, by_seed, markdown_table, ran_on, save_figure
from studies.runs import SAMPLES, done

PLAN = "claims-plan.json"
SIGNS = {1: "+", 0: "none", -1: "-"}


@frozen
class Finding:
    """A hypothesis on a mix: its test, the p value adjusted over the family, the conclusion."""

    hypothesis: Hypothesis
    mix: str
    test: PairedTest
    adjusted_p: float
    conclusion: Conclusion


def findings(seeds: Mapping[str, Sequence[Seed]]) -> list[Finding]:
    """Every hypothesis on every mix; Holm's adjustment is over all of them together."""
    pairs = [(hypothesis, mix) for mix in seeds for hypothesis in HYPOTHESES]
    tests = [paired_test([h.measure(seed) for seed in seeds[mix]]) for h, mix in pairs]
    adjusted = holm([test.p for test in tests])
    return [
        Finding(
            hypothesis=h, mix=mix, test=test, adjusted_p=p, conclusion=conclude(test, h.paper, p)
        )
        for (h, mix), test, p in zip(pairs, tests, adjusted, strict=True)
    ]


def predictions() -> list[dict]:
    return [
        {
            "hypothesis": h.name,
            "claim": h.claim,
            "sentence": h.sentence,
            "paper": h.paper,
            "expected": {mix: {"sign": e.sign, "why": e.why} for mix, e in h.expected.items()},
        }
        for h in HYPOTHESES
    ]


def write_plan(jobs: Sequence[Job], out: Path) -> None:
    """Record the predictions before the first run, with the time and the number of finished runs.

    The file is append-only: predictions that differ from the last ones are added to it.
    """
    plans = read_plans(out)
    if plans and plans[-1]["predictions"] == predictions():
        return
    plan = {
        "written": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "runs_there": sum(done(job) for job in jobs),
        "runs": len(jobs),
        "predictions": predictions(),
    }
    write_atomically(out / PLAN, json.dumps([*plans, plan], indent=2) + "\n")


def read_plans(out: Path) -> list[dict]:
    file = out / PLAN
    return read_json(file, list) if file.exists() else []


def report_claims(jobs: Sequence[Job], out: Path, docs: Path, command: str) -> list[Path]:
    """Write claims.md and claims.png."""
    seeds = {mix: by_seed(jobs, mix) for mix in MIXES}
    results = findings(seeds)
    figure = draw_intervals(results, docs / "claims.png")
    num_seeds = len(seeds["easy"])
    text = "\n".join(
        [
            HEAD.format(seeds=num_seeds, alpha=ALPHA, family=len(results), samples=SAMPLES),
            summary(results),
            "",
            "![Mean differences with 95% intervals, by claim and mix](claims.png)",
            "",
            *(line for mix in seeds for line in results_section(mix, results)),
            *peaks_section(seeds),
            *predictions_section(out),
            *method_section(jobs, num_seeds, command),
        ]
    )
    write_atomically(docs / "claims.md", text + "\n")
    return [docs / "claims.md", figure]


HEAD = """# The paper's claims on the pocket task

Made by `make claims-pocket`; not written by hand. Each claim of arXiv 2604.04894 that a run can
check is one or more hypotheses, each a number a seed whose mean has the sign that the paper says.
Two training mixes, easy and hard; {seeds} seeds, shared by all arms, so differences are paired.

*shown*: the paper's sign, and p below {alpha} in a paired t test after Holm's adjustment over all
{family} hypotheses of both mixes. *not shown: the opposite*: the other sign, and below {alpha}.
*undecided*: everything else, whatever its sign. Accuracy is avg@{samples} at temperature 1 on 320
held-out problems; the policy is small and the runs short, so nothing here speaks for a real model.
"""


def summary(results: Sequence[Finding]) -> str:
    """One line a claim: its conclusion on each mix, and the counts of its hypotheses.

    A claim is shown if all its hypotheses are, not shown if the opposite of one is, else undecided.
    """
    rows = []
    for claim, sentence in CLAIMS.items():
        rows.append([f"{claim}. {sentence}"])
        for mix in MIXES:
            words = [f.conclusion for f in results if f.hypothesis.claim == claim and f.mix == mix]
            counts = [f"{words.count(word)} {word}" for word in dict.fromkeys(sorted(words))]
            rows[-1].append(f"**{claim_conclusion(words)}** ({', '.join(counts)})")
    return markdown_table(["claim", *MIXES], rows)


def claim_conclusion(words: Sequence[str]) -> str:
    if "not shown: the opposite" in words:
        return "not shown"
    return "shown" if all(word == "shown" for word in words) else "undecided"


def results_section(mix: str, results: Sequence[Finding]) -> list[str]:
    header = ["claim", "hypothesis", "mean", "95% interval", "p (Holm)", "p (sign flips)", "paper"]
    rows = []
    for one in results:
        if one.mix != mix:
            continue
        hypothesis, test = one.hypothesis, one.test
        rows.append(
            [
                str(hypothesis.claim),
                f"{hypothesis.sentence} ({hypothesis.unit})",
                signed(test.mean),
                f"{signed(test.low)} to {signed(test.high)}",
                probability(one.adjusted_p),
                probability(test.p_sign_flip),
                SIGNS[hypothesis.paper],
                SIGNS[hypothesis.expected[mix].sign],
                f"**{one.conclusion}**",
            ]
        )
    table = markdown_table([*header, "we expected", "verdict"], rows)
    return [f"## Results on the {mix} mix", "", table, ""]


def peaks_section(seeds: Mapping[str, Sequence[Seed]]) -> list[str]:
    """The measured peaks of the pressure beside those of W+ and W-."""
    intro = [
        "## Where the pressure peaks (claim 6)",
        "",
        "Group accuracy with the greatest gradient mass a group, after clipping and with real "
        "lengths; mean over seeds, and their range.",
        "",
    ]
    arms = [("positive", f"pos{b:g}_neg0", 1 - b) for b in (0.25, 0.75)]
    arms += [("negative", f"pos0_neg{b:g}", b) for b in (0.25, 0.75)]
    arms += [("positive", "pos_only", 0.5), ("negative", "neg_only", 0.5)]
    rows = []
    for channel, arm, predicted in arms:
        rows.append([channel, arm, f"{predicted:.2f}"])
        for runs in seeds.values():
            peaks = [p for seed in runs if math.isfinite(p := measures.peak(seed[arm], channel))]
            rows[-1].append(
                f"{finite_mean(peaks):.2f} ({min(peaks):.2f} to {max(peaks):.2f})" if peaks else "-"
            )
    return [*intro, markdown_table(["channel", "arm", "Proposition 2", *MIXES], rows), ""]


def predictions_section(out: Path) -> list[str]:
    """The recorded predictions, and when they were written."""
    plans = read_plans(out)
    dates = [
        f"Written {plan['written']}, when {plan['runs_there']} of {plan['runs']} runs were done."
        for plan in plans
    ]
    rows = [
        [
            str(row["claim"]),
            row["sentence"],
            SIGNS[row["paper"]],
            *(f"{SIGNS[e['sign']]}: {e['why']}" for e in (row["expected"][mix] for mix in MIXES)),
        ]
        for row in (plans[-1]["predictions"] if plans else [])
    ]
    table = markdown_table(["claim", "hypothesis", "paper", *MIXES], rows)
    return ["## What was predicted", "", *dates, "", table, ""]


def method_section(jobs: Sequence[Job], seeds: int, command: str) -> list[str]:
    return [
        "## How it was obtained",
        "",
        f"`{command}`, finished {time.strftime('%Y-%m-%d')}: {len(jobs)} runs, seeds 0 to "
        f"{seeds - 1}, {max(job.steps for job in jobs)} steps each, the last checkpoint. "
        f"{ran_on(jobs)}.",
    ]


def signed(number: float) -> str:
    return f"{number:+.4f}" if math.isfinite(number) else "-"


def probability(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}"


# Okabe and Ito's blue and vermilion, and grey: distinguishable with colour blindness.
MARKERS: dict[Conclusion, tuple[str, str]] = {
    "shown": ("#0072b2", "o"),
    "not shown: the opposite": ("#d55e00", "X"),
    "undecided": ("#777777", "s"),
    "not measured": ("#777777", "s"),
}


TICKS = (-10, -3, -1, 0, 1, 3, 10)


def draw_intervals(results: Sequence[Finding], file: Path) -> Path:
    """One row a hypothesis, one panel a mix: mean and 95% interval, in standard deviations over
    seeds, so that nats and fractions share an axis. Positive means the paper's sign."""
    mixes = list(dict.fromkeys(one.mix for one in results))
    with figure_style():
        rows = len(results) // len(mixes)
        figure = Figure(figsize=(9.6, 1.3 + 0.27 * rows), facecolor=PAPER, layout="constrained")
        panels = figure.subplots(1, len(mixes), sharey=True, squeeze=False)[0]
        for axes, mix in zip(panels, mixes, strict=True):
            axes.axvline(0, color=MUTED, linewidth=0.8)
            for place, one in enumerate(f for f in results if f.mix == mix):
                colour, marker = MARKERS[one.conclusion]
                sign, test = one.hypothesis.paper, one.test
                unit = standard_deviation(test)
                if not math.isfinite(test.mean) or not math.isfinite(unit):
                    continue
                ends = sorted((sign * test.low / unit, sign * test.high / unit))
                axes.plot(ends, [place, place], color=colour, linewidth=1.6)
                axes.plot(sign * test.mean / unit, place, marker, color=colour, markersize=5)
            axes.set_title(f"{mix} mix", loc="left", fontsize=9.5)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
            axes.minorticks_off()
            axes.grid(axis="x", color=GRID, linewidth=0.6)
        first_panel = [f for f in results if f.mix == mixes[0]]
        panels[0].set_yticks(
            range(rows), [f"{f.hypothesis.claim}. {f.hypothesis.sentence}" for f in first_panel]
        )
        panels[0].set_ylim(rows - 0.5, -0.5)
        figure.supxlabel(
            "mean difference and 95% interval, in standard deviations over seeds; right of 0: the "
            "sign that the paper says",
            fontsize=8.5,
        )
        for word in list(MARKERS)[:3]:
            colour, marker = MARKERS[word]
            panels[-1].plot([], [], marker, color=colour, label=word)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        return save_figure(figure, file)


def standard_deviation(test: PairedTest) -> float:
    """The standard deviation of the differences; if it is 0, the size of their mean, or 1."""
    half = (test.high - test.low) / 2
    deviation = half * math.sqrt(test.n) / t_half_width(1.0, test.n - 1) if test.n > 1 else math.nan
    return deviation or abs(test.mean) or 1.0
