"""The paper's claims, tested: predictions recorded first, then intervals, tests and words.

Knows hypotheses, statistics and how the document is laid out; nothing of how runs are made.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from asymrl.files import write_atomically
from asymrl.study import figures, measures
from asymrl.study.arms import MIXES, Job
from asymrl.study.hypotheses import CLAIMS, HYPOTHESES, Hypothesis
from asymrl.study.results import Seed, by_seed, mean, ran_on
from asymrl.study.runs import SAMPLES, done
from asymrl.study.statistics import ALPHA, Contrast, holm, paired, verdict
from asymrl.types import UserError, value

PLAN = "claims-plan.json"
SIGNS = {1: "+", 0: "none", -1: "-"}


@value
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


def report(jobs: Sequence[Job], out: Path, docs: Path, command: str) -> list[Path]:
    """Write claims.md and claims.png."""
    seeds = {mix: by_seed(jobs, mix) for mix in MIXES}
    found = findings(seeds)
    picture = figures.forest(found, docs / "claims.png")
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
