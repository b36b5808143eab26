"""Schedules: how beta_pos and beta_neg move during a run. Pure functions, state -> state.

A schedule is `f(state, seen, *, keywords) -> new state`. The state is a mapping of names to finite
floats: `beta_pos` and `beta_neg`, which begin as the config's and are what the estimator gets at
the next step, and whatever else the schedule has to remember, under names of its own. It is all
that a schedule knows of the past, so a run that is resumed from a saved state goes on as if never
stopped. Step 1 always runs on the config's betas. To add a schedule, write the function and one
line of SCHEDULES, at the bottom.

The paper (arXiv 2604.04894) keeps its betas fixed and leaves schedules to future work: every rule
here is ours; the docstrings say which of the paper's results each one builds on. This module does
not know estimators, losses or files.
"""

import math
from collections.abc import Callable, Mapping

from asymrl.types import frozen

State = Mapping[str, float]


@frozen
class StepStats:
    """What a schedule may see of the step that has just finished.

    step: its number, from 1; steps: of the whole run; accuracy: p of each group that has a valid
    rollout; kappa: kappa_B of its rollout batch, nan where no group was mixed; entropy: of the
    policy that generated, nats a token.
    """

    step: int
    steps: int
    accuracy: tuple[float, ...]
    kappa: float
    entropy: float


def constant(state: State, seen: StepStats) -> dict[str, float]:
    """The config's betas throughout, as in the paper."""
    return dict(state)


def linear(
    state: State, seen: StepStats, *, end_beta_pos: float, end_beta_neg: float
) -> dict[str, float]:
    """From the config's betas on a straight line to the end's. Ours; the paper has no schedule.

        beta(t) = end + (beta(1) - end) f(t),    f(t) = (steps - t) / (steps - 1)

    so step 1 has the config's betas and step `steps` exactly the end's. What is computed is
    beta(t + 1) = end + (beta(t) - end) f(t + 1) / f(t), which needs no memory of where it began: a
    run that is continued with another number of steps goes on a straight line from where it is.
    A run of one step never leaves the config's betas; after the last step nothing moves. End betas
    are >= 0.
    """
    return _toward(state, seen, end_beta_pos, end_beta_neg, lambda left: left)


def cosine(
    state: State, seen: StepStats, *, end_beta_pos: float, end_beta_neg: float
) -> dict[str, float]:
    """As `linear`, with f(t) = (1 + cos(pi (t - 1) / (steps - 1))) / 2: slow, fast, slow.

    Computed as sin(pi/2 left)^2, left = (steps - t) / (steps - 1), which is exactly 0 at the end.
    """
    return _toward(
        state, seen, end_beta_pos, end_beta_neg, lambda left: math.sin(math.pi / 2 * left) ** 2
    )


def peak_tracking(
    state: State,
    seen: StepStats,
    *,
    quantile_pos: float = 0.1,
    quantile_neg: float = 0.4,
    rate: float = 0.1,
) -> dict[str, float]:
    """Keep the peaks of both channels' pressure on chosen quantiles of the groups' accuracy.

        beta_pos <- beta_pos + rate (1 - Q(quantile_pos) - beta_pos)
        beta_neg <- beta_neg + rate (    Q(quantile_neg) - beta_neg)

    Proposition 2 (arXiv 2604.04894): W+(p) peaks at p = 1 - beta_pos, W-(p) at p = beta_neg. Q is
    the quantile function of p over the batch's mixed groups, 0 < p < 1: only those have a gradient
    at betas above 0. On accuracies that are spread evenly over (0, 1), the default quantiles are
    the paper's best betas, (0.9, 0.4); on the seven accuracies k/8, each as frequent, they are
    (0.85, 0.4125). The rule is ours.

    Accuracies are multiples of 1/G, so a plain quantile would jump from one to the next. Q runs
    linearly through the points (F(p), p), F(p) = share below p + half of the share at p (the
    mid-distribution function; Ma, Genton and Parzen 2011, doi 10.1007/s10463-008-0216-5), and is
    level beyond the first and the last.

    The betas are their own running average: `rate` 1 takes each batch as it comes. They stay
    within [0, 1]; ones that begin above 1 are taken to 1 by the first batch with a mixed group. A
    batch without one changes nothing. Quantiles and rate are within [0, 1].
    """
    for name, share in (("quantile_pos", quantile_pos), ("quantile_neg", quantile_neg)):
        assert 0 <= share <= 1, f"{name} is {share}, and is from 0 to 1"
    assert 0 <= rate <= 1, f"the rate is {rate}, and is from 0 to 1"
    mixed = [p for p in seen.accuracy if 0 < p < 1]
    if not mixed:
        return dict(state)
    target_pos, target_neg = 1 - _quantile(mixed, quantile_pos), _quantile(mixed, quantile_neg)
    pos, neg = state["beta_pos"], state["beta_neg"]
    return {
        **state,
        "beta_pos": _within(pos + rate * (target_pos - pos), 0.0, 1.0),
        "beta_neg": _within(neg + rate * (target_neg - neg), 0.0, 1.0),
    }


def entropy_steering(
    state: State,
    seen: StepStats,
    *,
    entropy_low: float,
    entropy_high: float,
    max_move: float = 0.05,
    max_beta: float = 1.0,
    horizon: float = 10.0,
    rate: float = 0.1,
    clear: float = 2.0,
) -> dict[str, float]:
    """Move both betas, in opposite senses, so that entropy goes to a band and rests there.

    Proposition 1 (arXiv 2604.04894): to first order around (0, 0) the betas shift a step's entropy
    change by eta (beta_pos - beta_neg) kappa: the sign of kappa says which way to move, and a move
    changes entropy's *pace*. With H the step's entropy, D the running mean of its changes,

        width  = entropy_high - entropy_low
        wanted = (clip(H, entropy_low + width / 4, entropy_high - width / 4) - H) / horizon
        push   = clip((wanted - D) horizon / width, -1, 1)
        move   = max_move push trust sign(running kappa),   trust = max(0, 1 - (clear / z)^2)
        beta_pos <- beta_pos + move,    beta_neg <- beta_neg - move,    each within [0, max_beta]

    The aim lies a quarter of the band within its edges, so that noise does not carry entropy out
    again. D damps: without it the betas would move on until entropy comes back, and overshoot.
    z is the running kappa over its standard error, from its own running spread, batches taken as
    independent: within `clear` standard errors of 0 nothing moves. Running means give the n-th
    value the weight max(rate, 1/n). Units: nats a token; max_move, max_beta in beta; horizon in
    steps. The rule and its defaults are ours; the paper leaves schedules to future work.

    Degenerate cases: a nan or infinite kappa leaves the running one as it is, and the move is made
    with that; after one kappa there is no spread and nothing moves; kappas that are all the same,
    but not 0, are trusted fully. At a bound one beta stays and the other moves; a pace that the
    bounds do not allow is not reached. An entropy that is nan or infinite changes nothing.
    """
    assert 0 <= entropy_low < entropy_high, "entropy_low is at least 0 and below entropy_high"
    assert horizon > 0, f"the horizon is {horizon}, and is above 0"
    assert 0 < rate <= 1, f"the rate is {rate}, and is above 0 and at most 1"
    if not math.isfinite(seen.entropy):
        return dict(state)
    new = _seen_kappa(_seen_entropy(state, seen.entropy, rate), seen.kappa, rate)
    width = entropy_high - entropy_low
    aim = _within(seen.entropy, entropy_low + width / 4, entropy_high - width / 4)
    wanted, pace = (aim - seen.entropy) / horizon, new["entropy_change"]
    push = _within((wanted - pace) * horizon / width, -1.0, 1.0)
    move = max_move * push * _trust(new, clear) * math.copysign(1, new.get("kappa_mean", 0.0))
    return {
        **new,
        "beta_pos": _within(state["beta_pos"] + move, 0.0, max_beta),
        "beta_neg": _within(state["beta_neg"] - move, 0.0, max_beta),
    }


def _toward(
    state: State,
    seen: StepStats,
    end_beta_pos: float,
    end_beta_neg: float,
    share: Callable[[float], float],
) -> dict[str, float]:
    """One step of both betas to their ends; share(left) is f, `left` falls from 1 to 0."""
    new = dict(state)
    if seen.step >= seen.steps:
        return new
    whole = max(1, seen.steps - 1)
    ratio = share((seen.steps - seen.step - 1) / whole) / share((seen.steps - seen.step) / whole)
    for name, end in (("beta_pos", end_beta_pos), ("beta_neg", end_beta_neg)):
        assert end >= 0, f"end_{name} is {end}, and is at least 0"
        new[name] = end + (state[name] - end) * ratio
    return new


def _quantile(values: list[float], share: float) -> float:
    """The quantile of discrete values, through the mid-distribution function (`peak_tracking`)."""
    levels = sorted(set(values))
    below, points = 0.0, []
    for level in levels:
        of_level = values.count(level) / len(values)
        points.append((below + of_level / 2, level))
        below += of_level
    if share <= points[0][0]:
        return levels[0]
    for index in range(1, len(points)):
        (left, low), (right, high) = points[index - 1 : index + 1]
        if share <= right:
            return low + (high - low) * (share - left) / (right - left)
    return levels[-1]


def _seen_entropy(state: State, entropy: float, rate: float) -> dict[str, float]:
    """The state after one more entropy: `entropy_change` is a running mean of differences."""
    if "entropy_last" not in state:
        return {**state, "entropy_last": entropy, "entropy_change": 0.0, "entropy_steps": 0.0}
    count = state["entropy_steps"] + 1
    change = entropy - state["entropy_last"]
    mean = state["entropy_change"]
    return {
        **state,
        "entropy_last": entropy,
        "entropy_change": mean + max(rate, 1 / count) * (change - mean),
        "entropy_steps": count,
    }


def _seen_kappa(state: State, kappa: float, rate: float) -> dict[str, float]:
    """The state after one more kappa: its weighted mean, variance, and sum of squared weights."""
    new = dict(state)
    if not math.isfinite(kappa):
        return new
    count, mean = state.get("kappa_count", 0.0) + 1, state.get("kappa_mean", 0.0)
    weight = max(rate, 1 / count)
    new["kappa_count"] = count
    new["kappa_mean"] = mean + weight * (kappa - mean)
    old = state.get("kappa_variance", 0.0)
    new["kappa_variance"] = (1 - weight) * (old + weight * (kappa - mean) ** 2)
    new["kappa_weights"] = (1 - weight) ** 2 * state.get("kappa_weights", 0.0) + weight**2
    return new


def _trust(state: State, clear: float) -> float:
    """max(0, 1 - (clear / z)^2) of the running kappa; z^2 = mean^2 (1 - w) / (variance w).

    w is the sum of squared weights, 1/n for a plain mean: variance / (1 - w) estimates the spread
    of one kappa without bias, times w it is the squared standard error of the mean.
    """
    weights = state.get("kappa_weights", 1.0)
    mean, variance = state.get("kappa_mean", 0.0), state.get("kappa_variance", 0.0)
    if weights >= 1:
        return 0.0
    unclear = clear * math.sqrt(variance * weights / (1 - weights))
    return 0.0 if abs(mean) <= unclear else 1 - (unclear / mean) ** 2


def _within(number: float, low: float, high: float) -> float:
    return min(max(number, low), high)


SCHEDULES: dict[str, Callable[..., Mapping[str, float]]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "peak_tracking": peak_tracking,
    "entropy_steering": entropy_steering,
}
