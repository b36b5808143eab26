"""The paper's statements as hypotheses, and our predictions of each on each task.

A hypothesis is about one number per seed. The paper predicts that its mean over seeds is above 0
(sign +1), below 0 (-1), or within `margin` of 0 (sign 0). Section numbers are those of arXiv
2604.04894 v2.

Predictions were committed before the first run of a study. What was known then: the prototype of
the pocket task (nine arms, four seeds), three seeds of AsymGRPO and GRPO (docs/log.md), one run of
each on `sums`, and calibration runs on seeds 100 and above (for `pocket_short` also 50 steps of
GRPO and REINFORCE with other shares of misremembered facts). Numbers "in calibration" are from
those runs; docs/bonus.md repeats them on the present held-out problems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

from asymrl.statistics import finite_mean
from asymrl.types import frozen
from studies import results
from studies.jobs import ON_MIXED, PAPER_ROWS, SINGLE_BETAS, UNTRAINED, Arm, betas, row
from studies.results import Measure, Seed

Kind = Literal["accuracy", "entropy", "mechanism", "ours"]
GREEDY, NATS, SHARE = "greedy accuracy", "nats per token", "share of groups"
SCHEDULE = row("peak_tracking")
POCKET_ARMS = (
    UNTRAINED,
    *PAPER_ROWS,
    *ON_MIXED.values(),
    *SINGLE_BETAS,
    betas(0.9, 0.5),
    SCHEDULE,
)
ARMS: Mapping[str, tuple[Arm, ...]] = {
    "pocket": POCKET_ARMS,
    "pocket_short": POCKET_ARMS,
    "sums": (
        UNTRAINED,
        *(row(name) for name in ("reinforce", "grpo", "asym_sym", "asym", "grpo_clip_higher")),
        ON_MIXED["reinforce_mixed"],
        SCHEDULE,
    ),
}
SEEDS = {"pocket": 16, "pocket_short": 16, "sums": 4}
# for the paper's central claim, and for a statement of no difference
MORE_SEEDS = {"pocket": (("grpo", "asym_sym", "asym", "pos0.9_neg0.5"), 32)}


@frozen
class Expected:
    """The sign that we predict (0: within the margin, or too small to be found), and why."""

    sign: int
    why: str


@frozen
class Hypothesis:
    """measure: the number of one seed. floor_or_ceiling: given all seeds, why the task cannot
    decide it, or an empty text. Kind `ours`: a statement of this project, not of the paper.
    """

    name: str
    kind: Kind
    section: str
    statement: str
    unit: str
    arms: tuple[str, ...]
    sign: int
    margin: float
    measure: Callable[[Seed], float]
    floor_or_ceiling: Callable[[Sequence[Seed]], str]
    expected: Mapping[str, Expected]


def difference(seed: Seed, quantity: Measure, arm: str, other: str) -> float:
    return quantity(seed[arm]) - quantity(seed[other])


def over_arms(seed: Seed, quantity: Measure, points: Mapping[float, str]) -> float:
    """The slope of a quantity over the arms' betas."""
    return results.slope(list(points), [quantity(seed[arm]) for arm in points.values()])


def unsolved_over_arms(seed: Seed, points: Mapping[float, str]) -> float:
    hard = partial(results.unsolved_hard, untrained=seed["untrained"])
    return over_arms(seed, hard, points)


def along_kappa(seed: Seed, arm: str, sign: int) -> float:
    """The entropy of an arm minus REINFORCE's, in the direction that Proposition 1 predicts from
    the kappa of the first 20 steps of REINFORCE on mixed groups."""
    kappa = math.copysign(1, results.kappa_hat(seed["reinforce_mixed"]))
    return sign * kappa * difference(seed, results.entropy, arm, "reinforce_mixed")


def of_arm(seed: Seed, quantity: Measure, arm: str) -> float:
    return quantity(seed[arm])


def always(seeds: Sequence[Seed]) -> str:
    return ""


def between(
    seeds: Sequence[Seed],
    quantity: Measure,
    arms: Sequence[str],
    low: float,
    high: float,
    text: str,
) -> str:
    """Whether the mean of an arm is between two values; if none is, there is nothing to compare."""
    means = [finite_mean([quantity(seed[arm]) for seed in seeds]) for arm in arms]
    if any(low <= mean <= high for mean in means):
        return ""
    return f"{text} is {', '.join(f'{mean:.3f}' for mean in means)}: a floor or ceiling effect"


def expect(**tasks: tuple[int, str]) -> dict[str, Expected]:
    return {task: Expected(sign=sign, why=why) for task, (sign, why) in tasks.items()}


def accuracy(
    section: str,
    arm: str,
    other: str,
    sign: int,
    *,
    margin: float = 0.0,
    quantity: Measure = results.greedy,
    what: str = "greedy accuracy",
    kind: Kind = "accuracy",
    **tasks: tuple[int, str],
) -> Hypothesis:
    relation = {1: "above", -1: "below", 0: f"within {margin:g} of"}[sign]
    return Hypothesis(
        name=f"{what}: {arm} - {other}",
        kind=kind,
        section=section,
        statement=f"{what} of {arm} {relation} {other}",
        unit=GREEDY,
        arms=(arm, other),
        sign=sign,
        margin=margin,
        measure=partial(difference, quantity=quantity, arm=arm, other=other),
        floor_or_ceiling=partial(
            between, quantity=results.greedy, arms=(arm, other), low=0.05, high=0.97, text=GREEDY
        ),
        expected=expect(**tasks),
    )


def entropy(
    section: str, arm: str, other: str, sign: int, *, margin: float = 0.0, **tasks: tuple[int, str]
) -> Hypothesis:
    relation = {1: "above", -1: "below", 0: f"within {margin:g} of"}[sign]
    return Hypothesis(
        name=f"entropy: {arm} - {other}",
        kind="entropy",
        section=section,
        statement=f"entropy of {arm} {relation} {other}",
        unit=NATS,
        arms=(arm, other),
        sign=sign,
        margin=margin,
        measure=partial(difference, quantity=results.entropy, arm=arm, other=other),
        floor_or_ceiling=always,
        expected=expect(**tasks),
    )


def mechanism(
    section: str,
    statement: str,
    unit: str,
    arms: Sequence[str],
    sign: int,
    measure: Callable[[Seed], float],
    *,
    margin: float = 0.0,
    floor_or_ceiling: Callable[[Sequence[Seed]], str] = always,
    kind: Kind = "mechanism",
    **tasks: tuple[int, str],
) -> Hypothesis:
    return Hypothesis(
        name=statement,
        kind=kind,
        section=section,
        statement=statement,
        unit=unit,
        arms=tuple(arms),
        sign=sign,
        margin=margin,
        measure=measure,
        floor_or_ceiling=floor_or_ceiling,
        expected=expect(**tasks),
    )


BY_BETA_POS = {0.0: "reinforce", 0.25: "pos0.25_neg0", 0.5: "pos_only", 0.75: "pos0.75_neg0"}
BY_BETA_NEG = {0.0: "reinforce", 0.25: "pos0_neg0.25", 0.5: "neg_only"}
HARD_FALLS = "Proposition 2 moves the positive mass to hard groups"
NEGATIVE, POSITIVE = "kappa is below 0 there", "kappa is above 0 there"

ENTROPY = (
    entropy(
        "3.1, bonus",
        "reinforce_ent",
        "reinforce",
        +1,
        pocket=(+1, "the bonus is the gradient of the entropy"),
        pocket_short=(+1, "the bonus is the gradient of the entropy"),
    ),
    entropy(
        "3.2, single channels",
        "pos_only",
        "reinforce",
        +1,
        pocket=(-1, f"{NEGATIVE}; 4 of 4 seeds of the prototype"),
        pocket_short=(+1, f"{POSITIVE}, and all-solved groups stop pushing"),
    ),
    entropy(
        "3.2, single channels",
        "neg_only",
        "reinforce",
        -1,
        pocket=(-1, "REINFORCE's -1 on unsolved groups flattens the policy; kappa plays no role"),
        pocket_short=(-1, f"{POSITIVE}, and unsolved groups stop pushing"),
    ),
    *(
        mechanism(
            "Proposition 1, on mixed groups",
            f"entropy of {arm} minus reinforce_mixed, times {'minus ' * (sign < 0)}the sign of "
            "kappa, above 0",
            NATS,
            (arm, "reinforce_mixed"),
            +1,
            partial(along_kappa, arm=arm, sign=sign),
            kind="entropy",
            pocket=(+1, "the proposition itself; kappa is negative"),
            pocket_short=(+1, "the proposition itself; kappa is positive"),
        )
        for arm, sign in (("pos_only_mixed", +1), ("neg_only_mixed", -1))
    ),
    entropy(
        "3.2, flips",
        "ent_increase",
        "grpo",
        +1,
        pocket=(+1, "large in the prototype, 4 of 4 seeds"),
        pocket_short=(+1, "wrong responses weigh most in hard groups"),
    ),
    entropy(
        "3.2, flips",
        "ent_decrease",
        "grpo",
        -1,
        pocket=(-1, "small in the prototype, .50 against .53"),
        pocket_short=(-1, "right responses weigh most in easy groups"),
    ),
    entropy(
        "5, AsymGRPO",
        "asym",
        "grpo",
        0,
        margin=0.03,
        pocket=(+1, ".589 against .530 in the prototype: above, by more than the margin"),
        pocket_short=(0, "both are low after a few steps"),
        sums=(0, "both collapse within 10 steps"),
    ),
)
ACCURACY = (
    accuracy(
        "3.1, bonus",
        "reinforce_ent",
        "pos_only",
        -1,
        pocket=(0, ".83 in calibration, against .85 in the prototype"),
        pocket_short=(+1, ".80 in calibration, where GRPO with a bonus has .68 to .73"),
    ),
    accuracy(
        "3.2, single channels",
        "pos_only",
        "reinforce",
        +1,
        pocket=(+1, "+.128 +- .073 in the prototype"),
        pocket_short=(+1, "weight on hard groups; easy ones are soon all solved"),
    ),
    accuracy(
        "3.2, single channels",
        "neg_only",
        "reinforce",
        +1,
        pocket=(+1, "no -1 on the third of groups that are unsolved"),
        pocket_short=(+1, "no -1 on unsolved groups"),
    ),
    accuracy(
        "Table 2",
        "grpo",
        "reinforce",
        +1,
        pocket=(+1, "+.125 +- .152 in the prototype, 4 of 4 seeds"),
        pocket_short=(+1, "both channels leave solved and unsolved groups alone"),
        sums=(+1, "REINFORCE pushes on half of the groups, which are unsolved"),
    ),
    accuracy(
        "Table 2",
        "grpo",
        "pos_only",
        +1,
        pocket=(0, "equal in the prototype"),
        pocket_short=(0, "equal in the prototype of the other task"),
    ),
    accuracy(
        "Table 2",
        "grpo",
        "neg_only",
        +1,
        pocket=(+1, ".846 against .753 in the prototype"),
        pocket_short=(+1, "the positive channel puts weight on hard groups"),
    ),
    accuracy(
        "3.2, flips",
        "ent_increase",
        "grpo",
        -1,
        pocket=(-1, "-.478 +- .163 in the prototype"),
        pocket_short=(-1, "the negative channel pushes most where nothing is right yet"),
    ),
    accuracy(
        "3.2, flips",
        "ent_decrease",
        "grpo",
        -1,
        pocket=(-1, "-.205 +- .105 in the prototype"),
        pocket_short=(-1, "the positive weight is on what is solved"),
    ),
    *(
        accuracy(
            "3.2, flips degrade late",
            arm,
            "grpo",
            -1,
            quantity=results.greedy_late,
            what="late change of greedy accuracy",
            pocket=(0, why),
            pocket_short=(0, why),
        )
        for arm, why in (
            ("ent_increase", "a flip learns slowly from the start, so it rises late if at all"),
            ("ent_decrease", "GRPO has little left to gain late, a flip has more"),
        )
    ),
    accuracy(
        "5, the central claim",
        "asym",
        "asym_sym",
        +1,
        pocket=(0, "-.022 +- .084 in the prototype; smaller than 32 seeds can find"),
        pocket_short=(0, "too small to find"),
        sums=(0, "too small to find with 4 seeds"),
    ),
    accuracy(
        "5, Table 2",
        "asym",
        "grpo",
        +1,
        pocket=(0, "-.020 +- .072 in the prototype"),
        pocket_short=(0, "too small to find"),
        sums=(0, "too small to find with 4 seeds"),
    ),
    *(
        accuracy(
            "5, at the paper's temperature 0.4",
            "asym",
            other,
            +1,
            quantity=results.tempered,
            what="accuracy at T = 0.4",
            pocket=(0, "as in greedy accuracy"),
            pocket_short=(0, "as in greedy accuracy"),
            sums=(0, "as in greedy accuracy"),
        )
        for other in ("asym_sym", "grpo")
    ),
    accuracy(
        "ours, whether unsolved and all-solved groups make the difference",
        "grpo",
        "reinforce_mixed",
        +1,
        kind="ours",
        pocket=(0, "most of REINFORCE's loss comes from its -1 on unsolved groups"),
        pocket_short=(0, "most of REINFORCE's loss comes from its -1 on unsolved groups"),
        sums=(0, "too small to find with 4 seeds"),
    ),
    accuracy(
        "5, Table 2",
        "asym",
        "grpo_clip_higher",
        +1,
        pocket=(0, "clipping is rare at these step sizes, so this is asym minus GRPO"),
        pocket_short=(0, "clipping is rare at these step sizes"),
        sums=(0, "too small to find with 4 seeds"),
    ),
    accuracy(
        "5, Table 2",
        "asym",
        "dr_grpo",
        +1,
        pocket=(0, "r - p is GRPO with less weight on the ends"),
        pocket_short=(0, "too small to find"),
    ),
    accuracy(
        "5, Table 2",
        "asym",
        "grpo_ent",
        +1,
        pocket=(0, ".91 +- .05 in calibration, .885 in three runs of AsymGRPO"),
        pocket_short=(-1, "the bonus helped GRPO in calibration, .73 against .68"),
    ),
    accuracy(
        "Table 2",
        "grpo_clip_higher",
        "grpo",
        +1,
        pocket=(0, "clipping is rare at these step sizes"),
        pocket_short=(0, "clipping is rare at these step sizes"),
        sums=(0, "too small to find with 4 seeds"),
    ),
    accuracy(
        "version 1",
        "asym_clip_higher",
        "asym",
        +1,
        pocket=(0, "clipping is rare at these step sizes"),
        pocket_short=(0, "clipping is rare at these step sizes"),
    ),
    accuracy(
        "Fig. 4d, (0.9, 0.5) falls back",
        "pos0.9_neg0.5",
        "asym",
        -1,
        pocket=(0, "a change of 0.1 in beta_neg is too small to detect"),
        pocket_short=(0, "a change of 0.1 in beta_neg is too small to detect"),
    ),
    accuracy(
        "Fig. 4d, (0.9, 0.5) is back at GRPO",
        "pos0.9_neg0.5",
        "grpo",
        0,
        margin=0.05,
        pocket=(0, "all of these betas were equal in the prototype"),
        pocket_short=(0, "all of these betas are equal"),
    ),
    *(
        accuracy(
            "ours, a schedule from Proposition 2",
            SCHEDULE.name,
            other,
            +1,
            kind="ours",
            pocket=(
                0,
                "it keeps beta_pos high and lowers beta_neg early; the same as all of these betas",
            ),
            pocket_short=(0, "the same as all of these betas"),
            sums=(0, "too small to find with 4 seeds"),
        )
        for other in ("asym", "grpo")
    ),
)


def enough(quantity: Measure, arms: Iterable[str], text: str) -> Callable[[Sequence[Seed]], str]:
    return partial(between, quantity=quantity, arms=tuple(arms), low=0.02, high=0.98, text=text)


BONUS = ("reinforce_ent", "reinforce")
MECHANISM = (
    mechanism(
        "3.2, solved fractions",
        "none-solved share, slope over beta_pos in {0, .25, .5, .75}, below 0",
        f"{SHARE} per unit of beta_pos",
        tuple(BY_BETA_POS.values()),
        -1,
        partial(over_arms, quantity=results.none_solved, points=BY_BETA_POS),
        floor_or_ceiling=enough(results.none_solved, BY_BETA_POS.values(), "the none-solved share"),
        pocket=(-1, HARD_FALLS),
        pocket_short=(-1, HARD_FALLS),
    ),
    mechanism(
        "Proposition 2, solved fractions",
        "all-solved share, slope over beta_pos in {0, .25, .5, .75}, below 0",
        f"{SHARE} per unit of beta_pos",
        tuple(BY_BETA_POS.values()),
        -1,
        partial(over_arms, quantity=results.all_solved, points=BY_BETA_POS),
        floor_or_ceiling=enough(results.all_solved, BY_BETA_POS.values(), "the all-solved share"),
        pocket=(+1, "pos_only learned faster than REINFORCE in the prototype, so more is solved"),
        pocket_short=(+1, "as on the long sums"),
    ),
    mechanism(
        "3.2, on a fixed panel (ours)",
        "unsolved share of the hard held-out problems, slope over beta_pos, below 0",
        "share of problems per unit of beta_pos",
        ("untrained", *BY_BETA_POS.values()),
        -1,
        partial(unsolved_over_arms, points=BY_BETA_POS),
        kind="ours",
        pocket=(-1, HARD_FALLS),
        pocket_short=(-1, HARD_FALLS),
    ),
    mechanism(
        "3.1, bonus",
        "none-solved share of reinforce_ent within .02 of reinforce",
        SHARE,
        BONUS,
        0,
        partial(difference, quantity=results.none_solved, arm="reinforce_ent", other="reinforce"),
        margin=0.02,
        floor_or_ceiling=enough(results.none_solved, BONUS, "the none-solved share"),
        pocket=(0, "a calibrated bonus is small"),
        pocket_short=(0, "a calibrated bonus is small"),
    ),
    mechanism(
        "3.1, bonus",
        "all-solved share of reinforce_ent within .02 of reinforce",
        SHARE,
        BONUS,
        0,
        partial(difference, quantity=results.all_solved, arm="reinforce_ent", other="reinforce"),
        margin=0.02,
        floor_or_ceiling=enough(results.all_solved, BONUS, "the all-solved share"),
        pocket=(0, "a calibrated bonus is small"),
        pocket_short=(0, "a calibrated bonus is small"),
    ),
    mechanism(
        "3.2, gain of successes",
        "log-prob gain, slope over beta_neg in {0, .25, .5}, above 0",
        f"{NATS} per unit of beta_neg",
        tuple(BY_BETA_NEG.values()),
        +1,
        partial(over_arms, quantity=results.gain, points=BY_BETA_NEG),
        pocket=(
            +1,
            "unsolved groups no longer push correct tokens down",
        ),
        pocket_short=(-1, "fewer unsolved groups; on the old task the gain fell during runs"),
    ),
    mechanism(
        "3.2, gain of successes",
        "log-prob gain at beta_neg = .75 below REINFORCE's",
        NATS,
        ("pos0_neg0.75", "reinforce"),
        -1,
        partial(difference, quantity=results.gain, arm="pos0_neg0.75", other="reinforce"),
        pocket=(
            0,
            "few easy groups, where .75 weighs most; unsolved groups act in the opposite direction",
        ),
        pocket_short=(-1, "the rare wrong responses of easy groups get up to 4.3 times the weight"),
    ),
    *(
        mechanism(
            "Appendix E",
            f"kappa of the first 20 steps of {arm} above 0",
            NATS,
            (arm,),
            +1,
            partial(of_arm, quantity=results.kappa_hat, arm=arm),
            pocket=(-1, "-.015 to -.026 in six runs"),
            pocket_short=(+1, "the task was chosen for it, on other seeds"),
            sums=(+1, "+.058 and +.070 in two runs of the prototype"),
        )
        for arm in ("grpo", "reinforce")
    ),
    *(
        mechanism(
            "Proposition 2",
            f"peak of the {channel} pressure at {arm} above that at {other}",
            "group accuracy",
            (arm, other),
            +1,
            partial(
                difference,
                quantity=partial(results.peak, channel=channel),
                arm=arm,
                other=other,
            ),
            pocket=(+1, f"{peaks}; clipping and lengths change too little"),
            pocket_short=(+1, f"{peaks}; clipping and lengths change too little"),
        )
        for channel, arm, other, peaks in (
            ("positive", "pos0.25_neg0", "pos0.75_neg0", "1 - beta_pos, so .75 and .25"),
            ("negative", "pos0_neg0.75", "pos0_neg0.25", "beta_neg, so .75 and .25"),
        )
    ),
)
HYPOTHESES = (*ACCURACY, *ENTROPY, *MECHANISM)
