"""Advantage estimators: the rewards of N groups of G rollouts -> advantages (N, G).

An estimator is a function of `Groups` and of keyword-only numbers; those keywords are what a config
may set. To add one, write the function and one line of ADVANTAGES, at the bottom.

What holds for all of them:
- p is the fraction of a group's valid rollouts with reward 1; n, their number, stands in for G.
- An invalid rollout counts in neither, and its advantage is exactly 0; so is every advantage of a
  group without a valid rollout.
- They compute in the dtype of `groups.rewards`, and give every token of a rollout its advantage.
- r is a rollout's reward. "Sample std" has n - 1 in its denominator, "population std" has n.
- Where a formula has 0 / 0, or a std that does not exist, the advantage is 0; exceptions are said.

This module does not know what a token, a loss or a ratio is.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from asymrl.types import Groups

EPSILON = 1e-6
"""What verl and the code built on it adds to a std or a mean that it divides by."""


def asym(groups: Groups, *, beta_pos: float, beta_neg: float) -> Float[Tensor, "N G"]:
    """AsymGRPO (arXiv 2604.04894, Eq. 8): each channel with its own focus on hard or easy prompts.

        A_pos(p) =  ((1 - p) / p) ** beta_pos      for reward 1
        A_neg(p) = -(p / (1 - p)) ** beta_neg      for reward 0

    Members: (0, 0) REINFORCE, (0.5, 0) Pos-Only, (0, 0.5) Neg-Only, (0.5, 0.5) GRPO with the
    population std and no epsilon, (b, b) symmetric, (1, 0) MaxRL (on mixed groups). The mean over
    a group is 0 for every p if and only if beta_pos + beta_neg = 1.

    Degenerate cases: 0^0 := 1, so beta = 0 is the constant +1 or -1 on all-solved and none-solved
    groups too; with beta > 0 those groups get exactly 0. Betas are >= 0.
    """
    p, _ = _accuracy(groups)
    return _by_channel(groups, _odds(1 - p, p, beta_pos), -_odds(p, 1 - p, beta_neg))


def ent_increase(
    groups: Groups, *, beta_pos: float = 0.5, beta_neg: float = 0.5
) -> Float[Tensor, "N G"]:
    """`asym` with the negative channel's curve reflected, A~_neg(p) = A_neg(1 - p).

    arXiv 2604.04894, Section 3.2 and Appendix C. At p = 0, where A_neg(1 - p) is undefined, the
    curve goes on as the line through its values at 1/n and 2/n. With one valid rollout there is
    no such line, and the end is 0.
    """
    p, size = _accuracy(groups)
    return _by_channel(groups, _odds(1 - p, p, beta_pos), -_reflected(1 - p, size, beta_neg))


def ent_decrease(
    groups: Groups, *, beta_pos: float = 0.5, beta_neg: float = 0.5
) -> Float[Tensor, "N G"]:
    """`asym` with the positive channel's curve reflected, A~_pos(p) = A_pos(1 - p).

    arXiv 2604.04894, Section 3.2 and Appendix C. At p = 1, where A_pos(1 - p) is undefined, the
    curve goes on as the line through its values at (n - 1)/n and (n - 2)/n. With one valid rollout
    there is no such line, and the end is 0.
    """
    p, size = _accuracy(groups)
    return _by_channel(groups, _reflected(p, size, beta_pos), -_odds(p, 1 - p, beta_neg))


def grpo_sample_std(groups: Groups) -> Float[Tensor, "N G"]:
    """GRPO as verl computes it, (r - mean) / (std + 1e-6), std with n - 1 in its denominator.

    On mixed groups this is sqrt((n - 1) / n) times `asym` at (0.5, 0.5), up to the epsilon.
    All-solved and none-solved groups, and groups of one valid rollout, get 0.
    """
    p, size = _accuracy(groups)
    std = _sample_std(p, size) + EPSILON
    return _by_channel(groups, (1 - p) / std, -p / std)


def dr_grpo(groups: Groups) -> Float[Tensor, "N G"]:
    """Dr. GRPO (arXiv 2503.20783; its official code): r - p, GRPO without the std.

    All-solved and none-solved groups get 0. The method's other half, a loss divided by a constant
    length, is `loss.aggregation: constant`.
    """
    p, _ = _accuracy(groups)
    return _by_channel(groups, 1 - p, -p)


def rloo(groups: Groups) -> Float[Tensor, "N G"]:
    """RLOO (arXiv 2402.14740; verl's code): r minus the mean reward of the group's others,

        A = r - (n p - r) / (n - 1) = n / (n - 1) * (r - p).

    All-solved and none-solved groups get 0, and so does a lone rollout, which has no others.
    """
    p, size = _accuracy(groups)
    scale = size / (size - 1).clamp(min=1)
    return _by_channel(groups, scale * (1 - p), -scale * p)


def maxrl(groups: Groups) -> Float[Tensor, "N G"]:
    """MaxRL (arXiv 2602.02710; its official code): (r - p) / (p + 1e-6).

    On mixed groups this is `asym` at (1, 0), up to the epsilon. None-solved groups get 0, where
    that `asym` gives -1; all-solved groups get 0 from both.
    """
    p, _ = _accuracy(groups)
    return _by_channel(groups, (1 - p) / (p + EPSILON), -p / (p + EPSILON))


def w_reinforce(
    groups: Groups, *, positive_weight: float = 0.1, negative_weight: float = 1.0
) -> Float[Tensor, "N G"]:
    """W-REINFORCE (arXiv 2506.01347; its official code): positive_weight * r where r = 1, and
    -negative_weight where r = 0; neither depends on p.

    The paper's lambda is `positive_weight`, 0.1, beside a `negative_weight` of 1. Members: (1, 0)
    PSR, which learns from right responses only, (0, 1) NSR, from wrong ones only, (1, 1)
    REINFORCE. All-solved and none-solved groups are groups like all others.
    """
    p, _ = _accuracy(groups)
    positive = torch.full_like(p, positive_weight)
    return _by_channel(groups, positive, torch.full_like(p, -negative_weight))


def ngrpo(groups: Groups) -> Float[Tensor, "N G"]:
    """NGRPO (arXiv 2509.18851; its official code): GRPO as if one more rollout had been right.

    The virtual rollout counts in the mean and in the sample std, and gets no advantage itself:
    `grpo_sample_std` with p' = (n p + 1) / (n + 1) and n + 1 for p and n. So none-solved groups
    get a negative advantage, -1 / sqrt(n + 1) up to the epsilon (a lone wrong rollout too; the
    official code leaves the reward of a lone rollout as it is); all-solved groups get 0. The
    method's asymmetric clip, 0.16 below and 0.24 above, is `loss.clip_low` and `loss.clip_high`.
    """
    p, size = _accuracy(groups)
    p = (size * p + 1) / (size + 1)
    std = _sample_std(p, size + 1) + EPSILON
    return _by_channel(groups, (1 - p) / std, -p / std)


def qae(groups: Groups, *, quantile: float = 0.4) -> Float[Tensor, "N G"]:
    """Quantile advantage estimation (arXiv 2509.22611; formula from third-party notes):

        A = (r - b) / std,     b = the K-quantile of the group's rewards = 0 if p <= 1 - K, else 1

    K is `quantile`, from 0 to 1. On hard prompts (p <= 1 - K) only right rollouts learn, on easy
    ones only wrong ones. The gate's sides are the abstract's. Ours, as the notes leave it open:
    the population std, without an epsilon, and 0 on all-solved and none-solved groups for every K.
    """
    assert 0 <= quantile <= 1, f"the quantile is {quantile}, and is from 0 to 1"
    p, _ = _accuracy(groups)
    hard = p <= 1 - quantile + 1e-6  # p is a fraction k / n: 1 - 0.9 must not be below 1 / 10
    unit = 1 / (p * (1 - p)).sqrt()
    positive = torch.where(hard & (p < 1), unit, 0.0)
    return _by_channel(groups, positive, torch.where(hard, 0.0, -unit))


def a_grae(groups: Groups, *, alpha: float = 1.0) -> Float[Tensor, "N G"]:
    """A-GRAE (arXiv 2602.05548, Eqs. 12-13), on top of `grpo_sample_std`, here A:

        A' = A * [w / (2 sqrt(p)) + (1 - w) / (2 sqrt(1 - p))],  times min(1, w / alpha) if A > 0

    w is the accuracy of the whole call: the mean of p over its groups that have a valid rollout
    (as in the official code; the same as the mean reward where no rollout is invalid). So with a
    low w the easy groups weigh more and right rollouts count less. `alpha` is in (0, 1]; the
    paper's: 1 for mathematics, 0.5 for others. All-solved and none-solved groups get 0.

    The official code differs from the equations: it has 1 - sqrt(p) for sqrt(1 - p), and as it
    was released it runs this branch at the first step only. We follow the paper.
    """
    assert 0 < alpha <= 1, f"alpha is {alpha}, and is above 0 and at most 1"
    p, size = _accuracy(groups)
    w = p[size > 0].mean()
    focus = w / (2 * p.sqrt()) + (1 - w) / (2 * (1 - p).sqrt())
    focus = torch.where((p > 0) & (p < 1), focus, 0.0)
    std = _sample_std(p, size) + EPSILON
    positive = focus * (1 - p) / std * (w / alpha).clamp(max=1)
    return _by_channel(groups, positive, -focus * p / std)


def unlikeliness(groups: Groups, *, beta: float = 0.25) -> Float[Tensor, "N G"]:
    """Unlikeliness reward (arXiv 2506.02355; its official code): likely right rollouts earn less.

        r' = r * (1 - beta * rank / n),   A = (r' - mean(r')) / (std(r') + 1e-6)

    rank is 0 .. n - 1 over all of the group's rollouts, right and wrong, from the lowest to the
    highest mean old log-prob per token; sample std. Rollouts of equal log-prob share the mean of
    their ranks (ours: the code's order is then arbitrary). beta = 0 is `grpo_sample_std`.

    None-solved groups get 0, a lone rollout too. All-solved groups do not, unless their log-probs
    are all equal or beta = 0: the rewards differ, and half of them are below the mean. (The
    official code has a setting, not here, that drops groups whose rollouts are all right or wrong.)
    """
    _, size = _accuracy(groups)
    logprobs, size = groups.mean_logprobs, size[:, None]
    other, mine = logprobs[:, None, :], logprobs[:, :, None]
    below = (other < mine).to(groups.rewards.dtype) + 0.5 * (other == mine)
    rank = torch.where(groups.valid[:, None, :], below, 0.0).sum(2) - 0.5  # less itself
    reward = torch.where(groups.valid & (groups.rewards == 1), 1 - beta * rank / size, 0.0)
    centred = torch.where(groups.valid, reward - reward.sum(1, keepdim=True) / size, 0.0)
    std = (centred.square().sum(1, keepdim=True) / (size - 1).clamp(min=1)).sqrt()
    return centred / (std + EPSILON)


def _accuracy(groups: Groups) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """p and n of every group, over its valid rollouts; p is nan where there is none."""
    solved = groups.valid & (groups.rewards == 1)
    wrong = groups.valid & (groups.rewards == 0)
    assert bool((solved | wrong).eq(groups.valid).all()), "a reward is 0 or 1"
    size = groups.valid.sum(1).to(groups.rewards.dtype)
    return solved.sum(1) / size, size


def _sample_std(p: Float[Tensor, "N"], size: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Std of n rewards, n p of them 1 and the others 0, over n - 1; 0 at n = 1."""
    return (p * (1 - p) * size / (size - 1).clamp(min=1)).sqrt()


def _odds(above: Float[Tensor, "N"], below: Float[Tensor, "N"], beta: float) -> Float[Tensor, "N"]:
    """(above / below) ** beta, 0^0 := 1; infinite at below = 0, where no rollout takes it."""
    assert beta >= 0, f"a beta is {beta}, and is at least 0"
    return (above / below) ** beta


def _reflected(p: Float[Tensor, "N"], size: Float[Tensor, "N"], beta: float) -> Float[Tensor, "N"]:
    """B(p) = (p / (1 - p)) ** beta, at p = 1 extended linearly (Appendix C):

    B(1) := B((n-1)/n) + [B((n-1)/n) - B((n-2)/n)], and 0 where n < 2.
    Both flips are this curve: B(p) is A_pos(1 - p), and -B(1 - p) is A_neg(1 - p).
    """
    last, before = (size - 1) ** beta, ((size - 2) / 2) ** beta  # odds of n - 1 to 1, n - 2 to 2
    end = torch.where(size < 2, 0.0, last + (last - before))
    return torch.where(p == 1, end, _odds(p, 1 - p, beta))


def _by_channel(
    groups: Groups, positive: Float[Tensor, "N"], negative: Float[Tensor, "N"]
) -> Float[Tensor, "N G"]:
    """Give each rollout its channel's value: `positive` at reward 1, `negative` at 0."""
    advantages = torch.where(groups.rewards == 1, positive[:, None], negative[:, None])
    return torch.where(groups.valid, advantages, 0.0)


ADVANTAGES: dict[str, Callable[..., Tensor]] = {
    "asym": asym,
    "ent_increase": ent_increase,
    "ent_decrease": ent_decrease,
    "grpo_sample_std": grpo_sample_std,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "maxrl": maxrl,
    "w_reinforce": w_reinforce,
    "ngrpo": ngrpo,
    "qae": qae,
    "a_grae": a_grae,
    "unlikeliness": unlikeliness,
}
