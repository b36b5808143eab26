"""The paper's claims, tested: predictions recorded first, then intervals, tests and words.

Knows hypotheses, statistics and how the document is laid out; nothing of how runs are made.

Draws the studies' figures: matplotlib's object API, colours that the colour-blind tell apart.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from asymrl.errors import UserError
from asymrl.files import write_atomically
from asymrl.report.drawing import GRID, MUTED, PAPER
from asymrl.statistics import ALPHA, Contrast, holm, paired, verdict
from asymrl.types import frozen
from studies import measures
from studies.hypotheses import CLAIMS, HYPOTHESES, Hypothesis
from studies.jobs import MIXES, Job
from studies.results import Seed, by_seed, mean, ran_on
from studies.runs import SAMPLES, done

if TYPE_CHECKING:
    from studies.claims import Finding
from studies.results import FIGURE_STYLE, save_figure

PLAN = "claims-plan.json"
SIGNS = {1: "+", 0: "none", -1: "-"}


@frozen
class Finding:
    """A hypothesis on a mix: its contrast, the p value adjusted over the family, the verdict."""

    hypothesis: Hypothesis
    mix: str
    contrast: Contrast
    adjusted: float
    verdict: str


def findings(seeds: Mapping[str, Sequence[Seed]]) -> list[Finding]:
    """Every hypothesis on every mix; the family of Holm's adjustment is all of them together."""
    pairs = [(hypothesis, mix) for mix in seeds for hypothesis in HYPOTHESES]
    contrasts = [paired([h.measure(seed) for seed in seeds[mix]]) for h, mix in pairs]
    adjusted = holm([contrast.p for contrast in contrasts])
    return [
        Finding(hypothesis=h, mix=mix, contrast=c, adjusted=p, verdict=verdict(c, h.paper, p))
        for (h, mix), c, p in zip(pairs, contrasts, adjusted, strict=True)
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
    """The predictions, with the time and with how many runs were there, before anything runs.

    The file only grows: predictions that differ from the last ones are added below them.
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
    try:
        return json.loads(file.read_text()) if file.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def report_claims(jobs: Sequence[Job], out: Path, docs: Path, command: str) -> list[Path]:
    """Write claims.md and claims.png."""
    seeds = {mix: by_seed(jobs, mix) for mix in MIXES}
    found = findings(seeds)
    picture = forest(found, docs / "claims.png")
    num_seeds = len(seeds["easy"])
    text = "\n".join(
        [
            HEAD.format(seeds=num_seeds, alpha=ALPHA, family=len(found), samples=SAMPLES),
            *summary(found),
            "",
            "![Mean differences with 95% intervals, by claim and mix](claims.png)",
            "",
            *(line for mix in seeds for line in results_of(mix, found)),
            *peaks(seeds),
            *predicted(out),
            *obtained(jobs, num_seeds, command),
        ]
    )
    write_atomically(docs / "claims.md", text + "\n")
    return [docs / "claims.md", picture]


HEAD = """# The paper's claims on the pocket task

Made by `make claims-pocket`; not written by hand. Each claim of arXiv 2604.04894 that a run can
check is one or more hypotheses, each a number a seed whose mean has the sign that the paper says.
Two training mixes, easy and hard; {seeds} seeds, shared by all arms, so differences are paired.

*shown*: the paper's sign, and p below {alpha} in a paired t test after Holm's adjustment over all
{family} hypotheses of both mixes. *not shown: the opposite*: the other sign, and below {alpha}.
*undecided*: everything else, whatever its sign. Accuracy is avg@{samples} at temperature 1 on 320
held-out problems; the policy is small and the runs short, so nothing here speaks for a real model.
"""


def summary(found: Sequence[Finding]) -> list[str]:
    """One line a claim: what may be said of it on each mix, and how many hypotheses that is from.

    A claim is shown if all its hypotheses are, not shown if the opposite of one is, else undecided.
    """
    lines = ["| claim | " + " | ".join(MIXES) + " |", "|---" * (1 + len(MIXES)) + "|"]
    for claim, sentence in CLAIMS.items():
        cells = []
        for mix in MIXES:
            said = [f.verdict for f in found if f.hypothesis.claim == claim and f.mix == mix]
            counted = [f"{said.count(word)} {word}" for word in dict.fromkeys(sorted(said))]
            cells.append(f"**{of_claim(said)}** ({', '.join(counted)})")
        lines.append(f"| {claim}. {sentence} | " + " | ".join(cells) + " |")
    return lines


def of_claim(said: Sequence[str]) -> str:
    if any(word == "not shown: the opposite" for word in said):
        return "not shown"
    return "shown" if all(word == "shown" for word in said) else "undecided"


def results_of(mix: str, found: Sequence[Finding]) -> list[str]:
    lines = [
        f"## Results on the {mix} mix",
        "",
        "| claim | hypothesis | mean | 95% interval | p (Holm) | p (sign flips) | paper "
        "| we expected | verdict |",
        "|---" * 9 + "|",
    ]
    for one in found:
        if one.mix != mix:
            continue
        h, c = one.hypothesis, one.contrast
        lines.append(
            f"| {h.claim} | {h.sentence} ({h.unit}) | {signed(c.mean)} | "
            f"{signed(c.low)} to {signed(c.high)} | {probability(one.adjusted)} | "
            f"{probability(c.p_flip)} | {SIGNS[h.paper]} | {SIGNS[h.expected[mix].sign]} | "
            f"**{one.verdict}** |"
        )
    return [*lines, ""]


def peaks(seeds: Mapping[str, Sequence[Seed]]) -> list[str]:
    """The measured peaks of the pressure beside those of W+ and W-."""
    lines = [
        "## Where the pressure peaks (claim 6)",
        "",
        "Group accuracy with the greatest gradient mass a group, after clipping and with real "
        "lengths; mean over seeds, and their range.",
        "",
        "| channel | arm | Proposition 2 | " + " | ".join(MIXES) + " |",
        "|---" * (3 + len(MIXES)) + "|",
    ]
    arms = [("positive", f"pos{b:g}_neg0", 1 - b) for b in (0.25, 0.75)]
    arms += [("negative", f"pos0_neg{b:g}", b) for b in (0.25, 0.75)]
    arms += [("positive", "pos_only", 0.5), ("negative", "neg_only", 0.5)]
    for channel, arm, at in arms:
        of = partial(measures.peak, channel=channel)
        cells = []
        for runs in seeds.values():
            found = [p for p in (of(seed[arm]) for seed in runs) if math.isfinite(p)]
            cells.append(
                f"{mean(found):.2f} ({min(found):.2f} to {max(found):.2f})" if found else "-"
            )
        lines.append(f"| {channel} | {arm} | {at:.2f} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def predicted(out: Path) -> list[str]:
    """The predictions as they were recorded, and when."""
    plans = read_plans(out)
    lines = ["## What was predicted", ""]
    for plan in plans:
        when = f"Written {plan['written']}, when {plan['runs_there']} of {plan['runs']} runs were"
        lines.append(f"{when} done.")
    lines += ["", "| claim | hypothesis | paper | easy | hard |", "|---|---|---|---|---|"]
    for row in plans[-1]["predictions"] if plans else []:
        cells = [
            f"{SIGNS[row['expected'][mix]['sign']]}: {row['expected'][mix]['why']}" for mix in MIXES
        ]
        sentence = f"{row['claim']} | {row['sentence']} | {SIGNS[row['paper']]}"
        lines.append(f"| {sentence} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def obtained(jobs: Sequence[Job], seeds: int, command: str) -> list[str]:
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


# Okabe and Ito's blue, vermilion and grey: apart for all common kinds of colour vision.
LOOKS = {
    "shown": ("#0072b2", "o"),
    "not shown: the opposite": ("#d55e00", "X"),
    "undecided": ("#777777", "s"),
    "not measured": ("#777777", "s"),
}


TICKS = (-10, -3, -1, 0, 1, 3, 10)


def forest(found: Sequence[Finding], file: Path) -> Path:
    """One row a hypothesis, one panel a mix: mean and 95% interval, in units of the standard
    deviation over seeds (so that nats and fractions share an axis), positive where the paper is
    right."""
    mixes = list(dict.fromkeys(one.mix for one in found))
    with matplotlib.rc_context(FIGURE_STYLE):
        rows = len(found) // len(mixes)
        figure = Figure(figsize=(9.6, 1.3 + 0.27 * rows), facecolor=PAPER, layout="constrained")
        panels = figure.subplots(1, len(mixes), sharey=True, squeeze=False)[0]
        for axes, mix in zip(panels, mixes, strict=True):
            axes.axvline(0, color=MUTED, linewidth=0.8)
            for place, one in enumerate(f for f in found if f.mix == mix):
                colour, marker = LOOKS[one.verdict]
                sign, c = one.hypothesis.paper, one.contrast
                unit = spread_of(c.mean, c.low, c.high, c.n)
                if not math.isfinite(c.mean) or not math.isfinite(unit):
                    continue
                ends = sorted((sign * c.low / unit, sign * c.high / unit))
                axes.plot(ends, [place, place], color=colour, linewidth=1.6)
                axes.plot(sign * c.mean / unit, place, marker, color=colour, markersize=5)
            axes.set_title(f"{mix} mix", loc="left", fontsize=9.5)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
            axes.minorticks_off()
            axes.grid(axis="x", color=GRID, linewidth=0.6)
        named = [f for f in found if f.mix == mixes[0]]
        panels[0].set_yticks(
            range(rows), [f"{f.hypothesis.claim}. {f.hypothesis.sentence}" for f in named]
        )
        panels[0].set_ylim(rows - 0.5, -0.5)
        figure.supxlabel(
            "mean difference and 95% interval, in standard deviations over seeds; right of 0: the "
            "sign that the paper says",
            fontsize=8.5,
        )
        for word in ("shown", "not shown: the opposite", "undecided"):
            colour, marker = LOOKS[word]
            panels[-1].plot([], [], marker, color=colour, label=word)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        return save_figure(figure, file)


def spread_of(mean: float, low: float, high: float, n: int) -> float:
    """The standard deviation behind a t interval; where there is none, the mean's own size."""
    from scipy import stats

    half = (high - low) / 2
    spread = half * math.sqrt(n) / float(stats.t.ppf(0.975, n - 1)) if n > 1 else math.nan
    return spread or abs(mean) or 1.0
