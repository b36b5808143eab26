"""Reweighters: per-token advantages -> per-token advantages, by log-prob or entropy of each token.

A reweighter is a function of `TokenGroups` and of keyword-only settings; those keywords are what a
config may set. To add one, write the function and one line of REWEIGHT, at the bottom.

What holds for all of them:
- Tokens of weight 0 are in no mean, std or quantile, and get exactly 0.
- The log-probs and entropies (nats) are those of the policy that generated, before any update of
  the step, so a token's new advantage is a constant for the loss, and carries no gradient.
- Means are over tokens, all alike: a long rollout counts more than a short one. The scope of a
  statistic is the "group" (one prompt draw's tokens) or the "batch" (all that the call is given:
  the whole rollout batch). A paper's "batch" may have been a micro-batch; that we cannot imitate.
- What a token's loss is divided by stays as it was, also where its advantage becomes 0.
- Statistics are fp64; the result has the dtype of the advantages.
- A std below 1e-9 of the root mean square is rounding, and counts as 0.

This module does not know rewards, estimators, ratios or losses. Clip-Cov (arXiv 2505.22617) is not
here: it drops tokens drawn at random, and only such as the clipped loss has not dropped already.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from asymrl.types import TokenGroups

Scope = Literal["group", "batch"]
Std = Literal["population", "sample"]
Quadrant = Literal["phr", "plr", "nhr", "nlr"]


def none(tokens: TokenGroups) -> Float[Tensor, "M"]:
    """The advantages as they are (0 at weight 0, as everywhere)."""
    return _finished(tokens, tokens.advantages)


def covariance_kernel(
    tokens: TokenGroups, *, scope: Scope = "group", std: Std = "population"
) -> Float[Tensor, "M"]:
    """CW-GRPO (arXiv 2605.11538): tokens with an extreme covariance term, of either sign, weigh
    less. The paper has it on group-standardised rewards; any advantage will do.

        c  = (log pi - mean log pi) * (A - mean A)
        w  = exp(-c^2 / (2 sigma^2)),   sigma = std of c          A' = A * w / mean(w)

    All three means and sigma are over the scope, so that the weights average 1 there. Where
    sigma = 0 (all advantages equal, as in all-solved groups, or all log-probs) the weights are 1.

    Sources: w is a fragment of the paper; c, sigma, the normalisation and that the weight
    multiplies the advantage are from two third-party notes that agree. Not known: the scope (the
    notes say "batch" of sigma and "group" of the normalisation; we use one for all), N or N - 1 in
    the std, whether log pi is the current or the generating policy's (they are the same at a
    step's first update), whether w is detached (here it is).
    """
    assert scope in get_args(Scope), f"{scope!r} is not one of {get_args(Scope)}"
    counted = tokens.loss_mask > 0
    part = tokens.group if scope == "group" else torch.zeros_like(tokens.group)
    logprobs, advantages = tokens.logprobs.double(), tokens.advantages.double()
    c = logprobs - _mean(logprobs, part, counted)
    c = c * (advantages - _mean(advantages, part, counted))
    exponent = 0.5 * _over(c, _std(c, part, counted, std)).square()
    # Where c hardly varies, exp(-exponent) is 0 for a whole scope; a common factor cancels anyway.
    w = (_lowest(exponent, part, counted) - exponent).exp()
    return _finished(tokens, advantages * _over(w, _mean(w, part, counted)))


def entropy_aware(
    tokens: TokenGroups, *, alpha: float = 0.2, phi: float = 2.0, std: Std = "population"
) -> Float[Tensor, "M"]:
    """EAPO, later renamed HAPO (arXiv 2604.11056 v1, Eqs. 6-7): high-entropy tokens weigh more.

        z  = (H - mean H) / std H                            over the group's tokens
        A' = A + alpha * sign(A) * clip(z, -|A| / phi, |A| / phi)

    So A' is A times a number within [1 - alpha / phi, 1 + alpha / phi], [0.9, 1.1] by default,
    whose end is reached where |z| >= |A| / phi. It does not change signs while alpha < phi, and is
    not normalised again. Where std H = 0 nothing changes. The paper does not say whether the std
    has N or N - 1. alpha >= 0, phi > 0.
    """
    assert alpha >= 0, f"alpha is {alpha}, and is at least 0"
    assert phi > 0, f"phi is {phi}, and is above 0"
    counted = tokens.loss_mask > 0
    entropy, advantages = tokens.entropy.double(), tokens.advantages.double()
    centred = entropy - _mean(entropy, tokens.group, counted)
    z = _over(centred, _std(entropy, tokens.group, counted, std))
    bound = advantages.abs() / phi
    return _finished(tokens, advantages + alpha * advantages.sign() * z.clamp(-bound, bound))


def quadrant(tokens: TokenGroups, *, which: Quadrant) -> Float[Tensor, "M"]:
    """One of the four quadrants alone (arXiv 2604.11056 v1, Appendix B.1); all others get 0.

        phr  A > 0, H >= mean H        nhr  A < 0, H >= mean H
        plr  A > 0, H <  mean H        nlr  A < 0, H <  mean H

    mean H is over the group's tokens. The four add up to the advantages. The paper's polarity is
    its reward, +1 or -1: the same as the sign of A for every estimator that gives right rollouts
    no negative and wrong ones no positive advantage. Where all entropies of a group are equal, all
    its tokens are high.
    """
    assert which in get_args(Quadrant), f"{which!r} is not one of {get_args(Quadrant)}"
    counted = tokens.loss_mask > 0
    entropy = tokens.entropy.double()
    high = entropy >= _mean(entropy, tokens.group, counted)
    of_polarity = tokens.advantages > 0 if which[0] == "p" else tokens.advantages < 0
    kept = of_polarity & (high if which[1] == "h" else ~high)
    return _finished(tokens, torch.where(kept, tokens.advantages, 0.0))


def entropy_advantage(
    tokens: TokenGroups, *, alpha: float = 0.4, kappa: float = 2.0
) -> Float[Tensor, "M"]:
    """Entropy-shaped advantage (arXiv 2506.14758; formula from third-party notes and code):

        A' = A + min(alpha * H, |A| / kappa)

    Both signs of A gain: uncertain tokens of wrong responses are punished less. Signs do not
    change for kappa >= 1, and A = 0 stays 0. The notes have alpha 0.4 for GRPO; kappa 2 is from
    third-party implementations, not checked in the paper. alpha >= 0, kappa > 0.
    """
    assert alpha >= 0, f"alpha is {alpha}, and is at least 0"
    assert kappa > 0, f"kappa is {kappa}, and is above 0"
    bonus = torch.minimum(alpha * tokens.entropy.double(), tokens.advantages.double().abs() / kappa)
    return _finished(tokens, tokens.advantages + bonus)


def high_entropy(tokens: TokenGroups, *, rho: float = 0.2) -> Float[Tensor, "M"]:
    """Beyond the 80/20 rule (arXiv 2506.01939): only the share `rho` of tokens with the highest
    entropy, of the whole batch, keeps its advantage; all others get 0.

    Kept are the tokens with H >= the (1 - rho)-quantile of H, interpolated linearly between order
    statistics, as TRL's code has it: of n tokens the n - ceil((1 - rho) (n - 1)) highest, and all
    that are equal to the lowest of those. rho = 1 keeps everything. 0 < rho <= 1.
    """
    assert 0 < rho <= 1, f"rho is {rho}, and is above 0 and at most 1"
    ordered = tokens.entropy[tokens.loss_mask > 0].sort().values
    if not len(ordered):
        return _finished(tokens, tokens.advantages)
    # No token lies between the quantile and the order statistic above it; 1e-9 is for rounding.
    threshold = ordered[math.ceil((1 - rho) * (len(ordered) - 1) - 1e-9)]
    return _finished(tokens, torch.where(tokens.entropy >= threshold, tokens.advantages, 0.0))


def _finished(tokens: TokenGroups, advantages: Float[Tensor, "M"]) -> Float[Tensor, "M"]:
    """What every reweighter returns: 0 outside the loss, the given dtype, no gradient."""
    kept = torch.where(tokens.loss_mask > 0, advantages, 0.0)
    return kept.to(tokens.advantages.dtype).detach()


def _mean(
    values: Float[Tensor, "M"], part: Int[Tensor, "M"], counted: Bool[Tensor, "M"]
) -> Float[Tensor, "M"]:
    """For each token, the mean over the counted tokens of its part; 0 where there is none.

    Counted from the smallest value, so that the mean of equal values is that value, bit by bit.
    """
    lowest = _lowest(values, part, counted)
    total = _zeros(part).index_add(0, part, torch.where(counted, values - lowest, 0.0))
    number = _zeros(part).index_add(0, part, counted.double())
    return lowest + (total / number.clamp(min=1))[part]


def _std(
    values: Float[Tensor, "M"], part: Int[Tensor, "M"], counted: Bool[Tensor, "M"], std: Std
) -> Float[Tensor, "M"]:
    """Likewise the standard deviation: population (N) or sample (N - 1; 0 of a lone token)."""
    assert std in get_args(Std), f"{std!r} is not one of {get_args(Std)}"
    variance = _mean((values - _mean(values, part, counted)).square(), part, counted)
    if std == "sample":
        number = _zeros(part).index_add(0, part, counted.double())
        variance = variance * (number / (number - 1).clamp(min=1))[part]
    noise = 1e-18 * _mean(values.square(), part, counted)
    return torch.where(variance > noise, variance, 0.0).sqrt()


def _lowest(
    values: Float[Tensor, "M"], part: Int[Tensor, "M"], counted: Bool[Tensor, "M"]
) -> Float[Tensor, "M"]:
    """Likewise the smallest value."""
    infinite = torch.full_like(_zeros(part), math.inf)
    lowest = infinite.scatter_reduce(0, part, torch.where(counted, values, math.inf), "amin")
    return torch.where(lowest.isinf(), 0.0, lowest)[part]


def _over(values: Float[Tensor, "M"], divisors: Float[Tensor, "M"]) -> Float[Tensor, "M"]:
    """values / divisors, 0 where the divisor is 0."""
    return torch.where(divisors > 0, values / divisors, 0.0)


def _zeros(part: Int[Tensor, "M"]) -> Float[Tensor, "parts"]:
    """A zero for each part, numbered from 0."""
    return torch.zeros(
        int(part.max()) + 1 if len(part) else 0, dtype=torch.float64, device=part.device
    )


REWEIGHT: dict[str, Callable[..., Tensor]] = {
    "none": none,
    "covariance_kernel": covariance_kernel,
    "entropy_aware": entropy_aware,
    "quadrant": quadrant,
    "entropy_advantage": entropy_advantage,
    "high_entropy": high_entropy,
}
