"""Advantage estimators: the rewards of N groups of G rollouts -> advantages (N, G).

An estimator is a function of `Groups` and of keyword-only numbers; those keywords are what a config
may set. To add one, write the function and one line of ADVANTAGES, at the bottom.

What holds for all of them:
- p is the fraction of a group's valid rollouts with reward 1; n, their number, stands in for G.
- An invalid rollout counts in neither, and its advantage is exactly 0; so is every advantage of a
  group without a valid rollout.
- They compute in the dtype of `groups.rewards`, and give every token of a rollout its advantage.

This module does not know what a token, a loss or a ratio is.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from asymrl.types import Groups


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
    variance = p * (1 - p) * size / (size - 1).clamp(min=1)
    std = variance.sqrt() + 1e-6
    return _by_channel(groups, (1 - p) / std, -p / std)


def _accuracy(groups: Groups) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """p and n of every group, over its valid rollouts; p is nan where there is none."""
    solved = groups.valid & (groups.rewards == 1)
    wrong = groups.valid & (groups.rewards == 0)
    assert bool((solved | wrong).eq(groups.valid).all()), "a reward is 0 or 1"
    size = groups.valid.sum(1).to(groups.rewards.dtype)
    return solved.sum(1) / size, size


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
}
