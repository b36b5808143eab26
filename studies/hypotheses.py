"""The paper's six claims as hypotheses with signs, and our prediction of each on each mix.

Written before the runs. The predictions come from Proposition 1 with the kappa that a prototype
measured (about +.15 on the easy mix; about 0, or slightly negative, on the hard one), from the
effect of REINFORCE's constant advantages on all-solved and none-solved groups, and from that
prototype's 3 seeds. They are not changed afterwards; claims.py records when they were written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from asymrl.types import frozen
from studies import measures
from studies.measures import (
    difference,
    measure_arm,
    slope_over_beta_neg,
    slope_over_beta_pos,
)
from studies.results import Result, Seed


@frozen
class Expected:
    """The sign that we predict, 0 for no difference, and why."""

    sign: int
    why: str


@frozen
class Hypothesis:
    """A testable statement: the mean of `measure` over seeds has the sign `paper`."""

    name: str
    claim: int
    sentence: str
    unit: str
    paper: int
    measure: Callable[[Seed], float]
    expected: Mapping[str, Expected]  # by mix


CLAIMS = {
    1: "Entropy: the positive channel's beta raises it, the negative's lowers it; flips do more",
    2: "Accuracy: each channel alone helps, GRPO more, AsymGRPO most; flips hurt",
    3: "The none-solved fraction falls as beta_pos rises",
    4: "Log-prob gain of successes: rises with beta_neg to 0.5, at 0.75 is below REINFORCE's",
    5: "kappa_hat is positive",
    6: "The peak of gradient pressure over group accuracy moves with 1 - beta_pos and beta_neg",
}
ENTROPY, ACCURACY = "nats a token", "fraction right"


def expect(easy: tuple[int, str], hard: tuple[int, str]) -> dict[str, Expected]:
    return {
        mix: Expected(sign=sign, why=why) for mix, (sign, why) in (("easy", easy), ("hard", hard))
    }


def compared(
    claim: int,
    quantity: Callable[[Result], float],
    arm: str,
    other: str,
    paper: int,
    expected: Mapping[str, Expected],
) -> Hypothesis:
    """`quantity` is higher (+1) or lower (-1) with `arm` than with `other`."""
    word = "above" if paper > 0 else "below"
    return Hypothesis(
        name=f"{quantity.__name__}:{arm}-{other}",
        claim=claim,
        sentence=f"{quantity.__name__} of {arm} {word} {other}",
        unit=ENTROPY if quantity is measures.entropy else ACCURACY,
        paper=paper,
        measure=partial(difference, measure=quantity, arm=arm, other=other),
        expected=expected,
    )


ENTROPY_CLAIMS = (
    compared(
        1,
        measures.entropy,
        "pos_only",
        "reinforce",
        +1,
        expect(
            (
                +1,
                "kappa > 0: Proposition 1 adds eta beta_pos kappa; all-solved groups stop pushing",
            ),
            (
                -1,
                "kappa is 0 or below: the same term is 0 or negative; the prototype found it below",
            ),
        ),
    ),
    compared(
        1,
        measures.entropy,
        "neg_only",
        "reinforce",
        -1,
        expect(
            (-1, "kappa > 0: Proposition 1 takes eta beta_neg kappa away"),
            (0, "kappa <= 0 says up, losing the -1 of none-solved groups says down"),
        ),
    ),
    compared(
        1,
        measures.entropy,
        "ent_increase",
        "grpo",
        +1,
        expect(
            (+1, "large in the prototype, 3 of 3 seeds"),
            (
                +1,
                "wrong responses weigh most in hard groups, and there are many",
            ),
        ),
    ),
    compared(
        1,
        measures.entropy,
        "ent_decrease",
        "grpo",
        -1,
        expect(
            (-1, "large in the prototype, 3 of 3 seeds"),
            (-1, "right responses weigh most in easy groups; fewer of those, so a smaller effect"),
        ),
    ),
)
ACCURACY_CLAIMS = (
    compared(
        2,
        measures.accuracy,
        "pos_only",
        "reinforce",
        +1,
        expect(
            (+1, "REINFORCE spends its steps on groups that are all or none solved"),
            (+1, "weight on hard prompts is what the hard mix needs"),
        ),
    ),
    compared(
        2,
        measures.accuracy,
        "neg_only",
        "reinforce",
        +1,
        expect(
            (+1, "largest of the single channels in the prototype"),
            (+1, "no -1 on the many none-solved groups"),
        ),
    ),
    compared(
        2,
        measures.accuracy,
        "grpo",
        "pos_only",
        +1,
        expect(
            (0, "within the prototype's noise"),
            (+1, "no -1 on the many none-solved groups"),
        ),
    ),
    compared(
        2,
        measures.accuracy,
        "grpo",
        "neg_only",
        +1,
        expect(
            (0, "the prototype had neg_only above, within its noise"),
            (+1, "weight on hard prompts is what the hard mix needs"),
        ),
    ),
    compared(
        2,
        measures.accuracy,
        "asym",
        "grpo",
        +1,
        expect(
            (
                0,
                "almost no none-solved groups, where 0.9 would matter; 1 of 3 seeds before",
            ),
            (+1, "p below 1/2: beta_pos = 0.9 moves weight to the hard prompts"),
        ),
    ),
    compared(
        2,
        measures.accuracy,
        "ent_increase",
        "grpo",
        -1,
        expect(
            (-1, "found in the prototype"),
            (
                -1,
                "its large negative advantage on none-solved groups teaches nothing",
            ),
        ),
    ),
    compared(
        2,
        measures.accuracy,
        "ent_decrease",
        "grpo",
        -1,
        expect(
            (0, "no difference in the prototype"),
            (-1, "its positive weight is on the prompts that are solved already"),
        ),
    ),
)
BETAS_POS, BETAS_NEG = (0.0, 0.25, 0.5, 0.75), (0.0, 0.25, 0.5)
OTHER_CLAIMS = (
    Hypothesis(
        name="none_solved:over-beta_pos",
        claim=3,
        sentence="none-solved fraction, slope over beta_pos in {0, .25, .5, .75}, below 0",
        unit="fraction per unit of beta_pos",
        paper=-1,
        measure=partial(slope_over_beta_pos, measure=measures.none_solved, points=BETAS_POS),
        expected=expect(
            (0, "almost no none-solved groups are left, and not established in the prototype"),
            (-1, "Proposition 2: the positive mass moves to low p, and there is room to fall"),
        ),
    ),
    Hypothesis(
        name="gain:over-beta_neg",
        claim=4,
        sentence="log-prob gain, slope over beta_neg in {0, .25, .5}, above 0",
        unit="nats a token per unit of beta_neg",
        paper=+1,
        measure=partial(slope_over_beta_neg, measure=measures.gain, points=BETAS_NEG),
        expected=expect(
            (0, "seen from one state in the prototype, not along runs, whose states drift apart"),
            (
                +1,
                "the -1 of none-solved groups, which pushes right tokens down with the rest, goes",
            ),
        ),
    ),
    Hypothesis(
        name="gain:neg75-reinforce",
        claim=4,
        sentence="log-prob gain at beta_neg = 0.75 below REINFORCE's",
        unit="nats a token",
        paper=-1,
        measure=partial(difference, measure=measures.gain, arm="pos0_neg0.75", other="reinforce"),
        expected=expect(
            (-1, "the rare wrong responses of easy groups get up to 4.3 times the weight"),
            (0, "few easy groups at first; none-solved groups say the opposite"),
        ),
    ),
    *(
        Hypothesis(
            name=f"kappa_hat:{arm}",
            claim=5,
            sentence=f"kappa_hat of {arm} above 0",
            unit="nats a token",
            paper=+1,
            measure=partial(measure_arm, measure=measures.kappa_hat, arm=arm),
            expected=expect(
                (+1, "its sign is that of p - 1/2 in this task, and the mean p is .6 to .7"),
                (
                    0,
                    "its sign is that of p - 1/2 in this task; p starts below and rises through it",
                ),
            ),
        )
        for arm in ("grpo", "reinforce")
    ),
    *(
        Hypothesis(
            name=f"peak:{channel}",
            claim=6,
            sentence=f"peak of the {channel} pressure: at {arm} above that at {other}",
            unit="group accuracy",
            paper=+1,
            measure=partial(
                difference, measure=partial(measures.peak, channel=channel), arm=arm, other=other
            ),
            expected=expect(
                *[(+1, f"Proposition 2: {peaks}; clips and lengths are too small to undo it")] * 2
            ),
        )
        for channel, arm, other, peaks in (
            ("positive", "pos0.25_neg0", "pos0.75_neg0", "1 - beta_pos, so .75 and .25"),
            ("negative", "pos0_neg0.75", "pos0_neg0.25", "beta_neg, so .75 and .25"),
        )
    ),
)
HYPOTHESES = (*ENTROPY_CLAIMS, *ACCURACY_CLAIMS, *OTHER_CLAIMS)
