"""Schedules: how an estimator's parameters change during a run. Pure functions, state -> state.

A schedule is `f(state, stats, *, keywords) -> new state`; the keyword-only floats, or choices given
as a `Literal`, are its keys in a config. The state maps names to finite floats: the estimator's
parameters, such as `beta_pos` and `beta_neg`, which start at the config's values and are what the
estimator gets at the next step, plus anything the schedule must remember, under names of its own.
The state is all that a schedule knows about the past, so a run resumed from a saved state continues
exactly. Step 1 always runs with the config's values. To add a schedule, write the function and add
a line to SCHEDULES at the bottom. An `assert` on a parameter becomes the error message for a bad
value in a config.

The paper (arXiv 2604.04894) keeps its betas fixed and leaves schedules to future work: the rules
for betas here are ours, and their docstrings name the results of the paper that they build on. This
module does not know estimators, losses or files.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

from asymrl.types import frozen

State = Mapping[str, float]


@frozen
class StepStats:
    """What a schedule sees of the step that has just finished.

    step: its number, from 1. steps: the number of steps of the whole run. accuracy: p of each group
    that has a valid rollout. solved: the mean reward of all rollouts that the step generated, those
    that dynamic sampling dropped included. kappa: kappa_B of the rollout batch, nan without a mixed
    group. entropy: of the policy that generated the rollouts, in nats per token.
    """

    step: int
    steps: int
    accuracy: tuple[float, ...]
    solved: float
    kappa: float
    entropy: float


def constant(state: State, stats: StepStats) -> dict[str, float]:
    """The config's betas at every step, as in the paper."""
    return dict(state)


def linear(
    state: State, stats: StepStats, *, end_beta_pos: float, end_beta_neg: float
) -> dict[str, float]:
    """A straight line from the config's betas to the end values. Ours; the paper has no schedule.

        beta(t) = end + (beta(1) - end) f(t),    f(t) = (steps - t) / (steps - 1)

    So step 1 has the config's betas and step `steps` has exactly the end values. The code computes
    beta(t + 1) = end + (beta(t) - end) f(t + 1) / f(t), which does not need beta(1): a run resumed
    with a different number of steps continues on a straight line from its current betas. A run of
    one step keeps the config's betas, and nothing changes after the last step. End values must be
    >= 0.
    """
    return _toward(state, stats, end_beta_pos, end_beta_neg, lambda left: left)


def cosine(
    state: State, stats: StepStats, *, end_beta_pos: float, end_beta_neg: float
) -> dict[str, float]:
    """Like `linear`, with f(t) = (1 + cos(pi (t - 1) / (steps - 1))) / 2: slow, fast, slow.

    Computed as sin(pi/2 left)^2, left = (steps - t) / (steps - 1), which is exactly 0 at the end.
    """
    return _toward(
        state, stats, end_beta_pos, end_beta_neg, lambda left: math.sin(math.pi / 2 * left) ** 2
    )


def peak_tracking(
    state: State,
    stats: StepStats,
    *,
    quantile_pos: float = 0.1,
    quantile_neg: float = 0.4,
    rate: float = 0.1,
) -> dict[str, float]:
    """Keep the pressure peaks of both channels at given quantiles of the groups' accuracy.

        beta_pos <- beta_pos + rate (1 - Q(quantile_pos) - beta_pos)
        beta_neg <- beta_neg + rate (    Q(quantile_neg) - beta_neg)

    Proposition 2 (arXiv 2604.04894): W+(p) peaks at p = 1 - beta_pos, W-(p) at p = beta_neg. Q is
    the quantile function of p over the batch's mixed groups (0 < p < 1), since only those have a
    gradient at betas above 0. For accuracies spread evenly over (0, 1), the default quantiles give
    the paper's best betas, (0.9, 0.4); for the seven accuracies k/8, equally frequent, they give
    (0.85, 0.4125). The rule is ours.

    Accuracies are multiples of 1/G, so an ordinary quantile would jump from one to the next. Q is
    the linear interpolation of the points (F(p), p), where F(p) is the share below p plus half of
    the share at p (the mid-distribution function; Ma, Genton and Parzen 2011,
    doi 10.1007/s10463-008-0216-5), and is constant before the first and after the last point.

    The update is a running average; with `rate` 1 the betas follow each batch at once. They stay
    within [0, 1]: a beta that starts above 1 becomes at most 1 at the first batch with a mixed
    group. A batch without a mixed group changes nothing. Quantiles and rate must be in [0, 1].
    """
    for name, value in (
        ("quantile_pos", quantile_pos),
        ("quantile_neg", quantile_neg),
        ("rate", rate),
    ):
        assert 0 <= value <= 1, f"{name} must be from 0 to 1 (got {value})"
    mixed = [p for p in stats.accuracy if 0 < p < 1]
    if not mixed:
        return dict(state)
    target_pos, target_neg = 1 - _quantile(mixed, quantile_pos), _quantile(mixed, quantile_neg)
    pos, neg = state["beta_pos"], state["beta_neg"]
    return {
        **state,
        "beta_pos": _clip(pos + rate * (target_pos - pos), 0.0, 1.0),
        "beta_neg": _clip(neg + rate * (target_neg - neg), 0.0, 1.0),
    }


def entropy_steering(
    state: State,
    stats: StepStats,
    *,
    entropy_low: float,
    entropy_high: float,
    max_move: float = 0.05,
    max_beta: float = 1.0,
    horizon: float = 10.0,
    rate: float = 0.1,
    clear: float = 2.0,
) -> dict[str, float]:
    """Move the betas in opposite directions so that the entropy reaches a band and stays there.

    Proposition 1 (arXiv 2604.04894): to first order around (0, 0), the betas add
    eta (beta_pos - beta_neg) kappa to the entropy change of a step. So the sign of kappa gives the
    direction of a move, and a move changes the *pace* of the entropy. With H the entropy of the
    step and D the running mean of its changes,

        width  = entropy_high - entropy_low
        target = (clip(H, entropy_low + width / 4, entropy_high - width / 4) - H) / horizon
        push   = clip((target - D) horizon / width, -1, 1)
        move   = max_move push trust sign(running kappa),   trust = max(0, 1 - (clear / z)^2)
        beta_pos <- beta_pos + move,    beta_neg <- beta_neg - move,    each within [0, max_beta]

    The entropy is steered to a point inside the band, a quarter of its width from the edge, so that
    noise does not carry it out again. D adds damping: without it the betas would keep moving until
    the entropy is back, and overshoot. z is the running kappa divided by its standard error, which
    is estimated from the running variance of kappa with batches treated as independent: nothing
    moves while kappa is within `clear` standard errors of 0. Running means give the n-th value the
    weight max(rate, 1/n). Units: entropies in nats per token, max_move and max_beta in beta,
    horizon in steps. The rule and its defaults are ours; the paper leaves schedules to future work.

    Degenerate cases: a nan or infinite kappa does not enter the running kappa, which still decides
    the move. After the first kappa there is no variance and nothing moves. If all kappas are equal
    and not 0, trust is 1. If one beta is at its bound, the other still moves; a pace that the
    bounds rule out is not reached. A nan or infinite entropy changes nothing.
    """
    assert 0 <= entropy_low < entropy_high, (
        "entropy_low must be at least 0 and below entropy_high "
        f"(got entropy_low {entropy_low}, entropy_high {entropy_high})"
    )
    assert horizon > 0, f"horizon must be above 0 (got {horizon})"
    assert 0 < rate <= 1, f"rate must be above 0 and at most 1 (got {rate})"
    if not math.isfinite(stats.entropy):
        return dict(state)
    new = _with_kappa(_with_entropy(state, stats.entropy, rate), stats.kappa, rate)
    width = entropy_high - entropy_low
    goal = _clip(stats.entropy, entropy_low + width / 4, entropy_high - width / 4)
    target, pace = (goal - stats.entropy) / horizon, new["entropy_change"]
    push = _clip((target - pace) * horizon / width, -1.0, 1.0)
    move = max_move * push * _trust(new, clear) * math.copysign(1, new.get("kappa_mean", 0.0))
    return {
        **new,
        "beta_pos": _clip(state["beta_pos"] + move, 0.0, max_beta),
        "beta_neg": _clip(state["beta_neg"] - move, 0.0, max_beta),
    }


def fade(
    state: State,
    stats: StepStats,
    *,
    alpha_max: float = 3.0,
    rate: float = 0.02,
    sign: Literal["plus", "minus"] = "plus",
) -> dict[str, float]:
    """FADE's own control of alpha and delta (arXiv 2607.01490; from third-party notes), for the
    estimator `fade`.

        alpha = clip(3 (1 - p^) / (2 p^), 1, alpha_max)        p^ <- p^ + rate (p - p^)
        delta = clip(1 +- (H^ - H*), 0.3, 1)                   H^ <- H^ + rate (H - H^)

    p is the mean reward of what the step generated and H the batch's entropy in nats per token; p^
    and H^ start at the first step's. H* is half of the first step's entropy. So the focus on hard
    prompts ends as they are solved, and once the entropy is below H*, wrong responses weigh more,
    which by the notes' prose raises it again. `sign` is `plus` in the notes; another formula of
    theirs contradicts their prose, so `minus` is a choice too. They also have the weights of the
    running means the other way round, 0.02 p^ + 0.98 p (rate 0.98 here). Neither was checked
    against the paper. A step without a finite reward or entropy changes nothing. alpha_max must be
    >= 1, rate in (0, 1].
    """
    assert alpha_max >= 1, f"alpha_max must be at least 1 (got {alpha_max})"
    assert 0 < rate <= 1, f"rate must be above 0 and at most 1 (got {rate})"
    if not math.isfinite(stats.solved) or not math.isfinite(stats.entropy):
        return dict(state)
    solved = state.get("solved", stats.solved)
    solved += rate * (stats.solved - solved)
    entropy = state.get("entropy_mean", stats.entropy)
    entropy += rate * (stats.entropy - entropy)
    target = state.get("entropy_target", stats.entropy / 2)
    gap = entropy - target
    focus = 1.5 * (1 - solved) / solved if solved else alpha_max
    return {
        **state,
        "solved": solved,
        "entropy_mean": entropy,
        "entropy_target": target,
        "alpha": _clip(focus, 1.0, alpha_max),
        "delta": _clip(1 + gap if sign == "plus" else 1 - gap, 0.3, 1.0),
    }


def _toward(
    state: State,
    stats: StepStats,
    end_beta_pos: float,
    end_beta_neg: float,
    f: Callable[[float], float],
) -> dict[str, float]:
    """One step of both betas toward their end values. f(left) is f(t); `left` falls from 1 to 0."""
    new = dict(state)
    if stats.step >= stats.steps:
        return new
    moves = max(1, stats.steps - 1)
    ratio = f((stats.steps - stats.step - 1) / moves) / f((stats.steps - stats.step) / moves)
    for name, end in (("beta_pos", end_beta_pos), ("beta_neg", end_beta_neg)):
        assert end >= 0, f"end_{name} must be at least 0 (got {end})"
        new[name] = end + (state[name] - end) * ratio
    return new


def _quantile(values: list[float], share: float) -> float:
    """The quantile of discrete values by the mid-distribution function (see `peak_tracking`)."""
    levels = sorted(set(values))
    below, points = 0.0, []
    for level in levels:
        share_at = values.count(level) / len(values)
        points.append((below + share_at / 2, level))
        below += share_at
    if share <= points[0][0]:
        return levels[0]
    for index in range(1, len(points)):
        (left, low), (right, high) = points[index - 1 : index + 1]
        if share <= right:
            return low + (high - low) * (share - left) / (right - left)
    return levels[-1]


def _with_entropy(state: State, entropy: float, rate: float) -> dict[str, float]:
    """The state with one more entropy. `entropy_change` is the running mean of its changes."""
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


def _with_kappa(state: State, kappa: float, rate: float) -> dict[str, float]:
    """The state with one more kappa: weighted mean, variance, and sum of squared weights."""
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
    """max(0, 1 - (clear / z)^2) for the running kappa, where z^2 = mean^2 (1 - w) / (variance w).

    w is the sum of squared weights (1/n for a plain mean). variance / (1 - w) is an unbiased
    estimate of the variance of one kappa; times w it is the squared standard error of the mean.
    """
    weights = state.get("kappa_weights", 1.0)
    mean, variance = state.get("kappa_mean", 0.0), state.get("kappa_variance", 0.0)
    if weights >= 1:
        return 0.0
    threshold = clear * math.sqrt(variance * weights / (1 - weights))
    return 0.0 if abs(mean) <= threshold else 1 - (threshold / mean) ** 2


def _clip(number: float, low: float, high: float) -> float:
    return min(max(number, low), high)


SCHEDULES: dict[str, Callable[..., Mapping[str, float]]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "peak_tracking": peak_tracking,
    "entropy_steering": entropy_steering,
    "fade": fade,
}
