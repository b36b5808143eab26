"""Reweighters: per-token advantages -> per-token advantages, by log-prob or entropy of each token.

A reweighter is a function of `TokenGroups` with keyword-only parameters, which are its keys in a
config: floats, or a choice given as a `Literal`. To add one, write the function and add a line to
REWEIGHT at the bottom. An `assert` on a parameter becomes the error message for a bad value in a
config.

Common to all reweighters:
- Tokens with loss_mask 0 enter no mean, std or quantile, and get exactly 0.
- Log-probs and entropies (nats) are those of the policy that generated the rollouts, before any
  update of the step. The new advantages are constants for the loss and carry no gradient.
- Statistics are over tokens, each with the same weight: a long rollout counts more than a short
  one. Their scope is the "group" (the tokens of one prompt draw) or the "batch" (all tokens of the
  call, which is the whole rollout batch; a paper's "batch" may have been a micro-batch, which we
  cannot reproduce).
- The loss denominators do not change, even where an advantage becomes 0.
- Statistics are computed in fp64; the result has the dtype of the advantages.
- A std below 1e-9 times the root mean square is rounding noise and counts as 0.

This module does not know rewards, estimators, probability ratios or losses. Methods that need the
ratio, such as Clip-Cov, are losses (loss.py).
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from asymrl.types import TokenGroups

LN_4 = math.log(4)
Scope = Literal["group", "batch"]
Std = Literal["population", "sample"]
Quadrant = Literal["phr", "plr", "nhr", "nlr"]


def none(tokens: TokenGroups) -> Float[Tensor, "M"]:
    """The unchanged advantages (0 where loss_mask is 0)."""
    return _finalize(tokens, tokens.advantages)


def covariance_kernel(
    tokens: TokenGroups, *, scope: Scope = "group", std: Std = "population"
) -> Float[Tensor, "M"]:
    """CW-GRPO (arXiv 2605.11538): less weight on tokens with an extreme covariance of either sign.

        c  = (log pi - mean log pi) * (A - mean A)
        w  = exp(-c^2 / (2 sigma^2)),   sigma = std of c          A' = A * w / mean(w)

    The three means and sigma are over the scope, so the weights average 1 there. Where sigma = 0
    (all advantages are equal, as in all-solved groups, or all log-probs are) the weights are 1. The
    paper uses group-standardised rewards as A; any advantage works.

    Sources: w is quoted from the paper; c, sigma, the normalisation, and the product of weight and
    advantage are from two third-party notes that agree. Unknown: the scope (the notes say "batch"
    for sigma and "group" for the normalisation; we use one scope for all), N or N - 1 in the std,
    whether log pi belongs to the current or the generating policy (the same at the first update),
    and whether w is detached (here it is).
    """
    assert scope in get_args(Scope), f"scope must be one of {get_args(Scope)} (got {scope!r})"
    in_loss = tokens.loss_mask > 0
    part = tokens.group if scope == "group" else torch.zeros_like(tokens.group)
    logprobs, advantages = tokens.logprobs.double(), tokens.advantages.double()
    c = logprobs - _mean(logprobs, part, in_loss)
    c = c * (advantages - _mean(advantages, part, in_loss))
    exponent = 0.5 * _divide(c, _std(c, part, in_loss, std)).square()
    # exp(-exponent) may underflow to 0 on a whole scope; subtracting the smallest exponent prevents
    # that and cancels in the normalisation.
    w = (_lowest(exponent, part, in_loss) - exponent).exp()
    return _finalize(tokens, advantages * _divide(w, _mean(w, part, in_loss)))


def covariance_kernel_code(tokens: TokenGroups) -> Float[Tensor, "M"]:
    """CW-GRPO as the code of its first author computes it (WangCheng0116/CW-GRPO, July 2025), which
    differs from the paper's formula: the gradient flows through the weight.

        u = log pi - mean log pi                     mean over the rollout's tokens
        c = u (A - mean A)                           mean over the group's rollouts
        w = exp(-c^2 / (2 sigma^2)) * S / sum w      sigma = population std of c + 1e-8, group
        J = mean over rollouts of mean_t (w A rho)   A' = dJ / d log pi, as an advantage

    S is the number of rollouts times the longest of them, as in that code, where padding inflates
    the weights. A' is w A plus what the weights of the other tokens change with this log-prob: at p
    = 1/2 it is about A w (1 - u / var u), so that likely tokens are damped or change their sign. It
    is exact where the policy has not moved (rho = 1, as always in that code) and with
    `loss.aggregation: seq_mean`. Where the log-probs of a group hardly differ, A' is large without
    bound. That code takes 0.04 times the k3 penalty (`loss.kl_coef`) and divides rewards by the
    sample std + 1e-4 (`grpo_sample_std` here has 1e-6).
    """
    in_loss, row, group = tokens.loss_mask > 0, tokens.row, tokens.group
    advantages = torch.where(in_loss, tokens.advantages, 0.0).double()
    ones = in_loss.double()
    lengths = _zeros(row).index_add(0, row, ones)[row]
    per_rollout = ones / lengths.clamp(min=1)  # sums to 1 over a rollout's tokens
    rollouts = _zeros(group).index_add(0, group, per_rollout)
    sums = _zeros(group).index_add(0, group, per_rollout * advantages)
    mean_advantage = (sums / rollouts.clamp(min=1))[group]
    longest = _zeros(group).scatter_reduce(0, group, lengths * ones, "amax")
    size = (rollouts * longest)[group]
    with torch.enable_grad():
        logprobs = torch.where(in_loss, tokens.logprobs, 0.0).double().requires_grad_()
        u = logprobs - _mean(logprobs, row, in_loss)
        c = u * (advantages - mean_advantage)
        variance = _mean((c - _mean(c, group, in_loss)).square(), group, in_loss)
        sigma = torch.where(variance > 0, variance, 1).sqrt() + 1e-8  # c = 0 where variance is 0
        w = torch.where(in_loss, (-c.square() / (2 * sigma.square())).exp(), 0.0)
        w = _divide(w * size, _zeros(group).index_add(0, group, w)[group])
        objective = (w * advantages * per_rollout).sum()
        (through_weights,) = torch.autograd.grad(objective, logprobs)
    return _finalize(tokens, w * advantages + lengths * through_weights)


def entropy_aware(
    tokens: TokenGroups, *, alpha: float = 0.2, phi: float = 2.0, std: Std = "population"
) -> Float[Tensor, "M"]:
    """EAPO, later renamed HAPO (arXiv 2604.11056 v1, Eqs. 6-7): more weight on high-entropy tokens.

        z  = (H - mean H) / std H                            over the group's tokens
        A' = A + alpha * sign(A) * clip(z, -|A| / phi, |A| / phi)

    So A' is A times a number in [1 - alpha / phi, 1 + alpha / phi], by default [0.9, 1.1]; it is at
    an end of this interval where |z| >= |A| / phi. Signs do not change while alpha < phi. The
    result is not normalised again. Where std H = 0 nothing changes. The paper does not say whether
    the std divides by N or N - 1. alpha must be >= 0 and phi > 0.
    """
    assert alpha >= 0, f"alpha must be at least 0 (got {alpha})"
    assert phi > 0, f"phi must be above 0 (got {phi})"
    in_loss = tokens.loss_mask > 0
    entropy, advantages = tokens.entropy.double(), tokens.advantages.double()
    centred = entropy - _mean(entropy, tokens.group, in_loss)
    z = _divide(centred, _std(entropy, tokens.group, in_loss, std))
    bound = advantages.abs() / phi
    return _finalize(tokens, advantages + alpha * advantages.sign() * z.clamp(-bound, bound))


def quadrant(tokens: TokenGroups, *, which: Quadrant) -> Float[Tensor, "M"]:
    """Only one of four quadrants of tokens (arXiv 2604.11056 v1, Appendix B.1); the others get 0.

        phr  A > 0, H >= mean H        nhr  A < 0, H >= mean H
        plr  A > 0, H <  mean H        nlr  A < 0, H <  mean H

    mean H is over the group's tokens. The four quadrants add up to the advantages. The paper's
    polarity is its reward, +1 or -1, which is the sign of A for every estimator that gives correct
    rollouts no negative and wrong rollouts no positive advantage. If all entropies of a group are
    equal, all its tokens are high.
    """
    assert which in get_args(Quadrant), f"which must be one of {get_args(Quadrant)} (got {which!r})"
    entropy = tokens.entropy.double()
    high = entropy >= _mean(entropy, tokens.group, tokens.loss_mask > 0)
    right_entropy = high if which[1] == "h" else ~high
    right_sign = tokens.advantages > 0 if which[0] == "p" else tokens.advantages < 0
    return _finalize(tokens, torch.where(right_sign & right_entropy, tokens.advantages, 0.0))


def entropy_advantage(
    tokens: TokenGroups, *, alpha: float = 0.4, kappa: float = 2.0
) -> Float[Tensor, "M"]:
    """Entropy-shaped advantage (arXiv 2506.14758; formula from third-party notes and code).

        A' = A + min(alpha * H, |A| / kappa)

    The bonus is positive for both signs of A, so uncertain tokens of wrong responses are penalised
    less. Signs do not change for kappa >= 1, and A = 0 stays 0. alpha = 0.4 is the notes' value for
    GRPO; kappa = 2 is from third-party implementations, not checked against the paper. alpha must
    be >= 0 and kappa > 0.
    """
    assert alpha >= 0, f"alpha must be at least 0 (got {alpha})"
    assert kappa > 0, f"kappa must be above 0 (got {kappa})"
    bonus = torch.minimum(alpha * tokens.entropy.double(), tokens.advantages.double().abs() / kappa)
    return _finalize(tokens, tokens.advantages + bonus)


def entropic_advantage(tokens: TokenGroups, *, kappa: float = LN_4) -> Float[Tensor, "M"]:
    """EAPO of 2026, Entropic Advantage (arXiv 2609.33781; its official code): correct rollouts
    learn more at uncertain tokens, wrong ones at certain tokens.

        h = clip((H - Q(0.1)) / (Q(0.9) - Q(0.1) + 1e-8), 0, 1)     A' = A w / mean(w)
        w = exp(kappa sign(A) h)

    Q is the quantile function of H over the batch, interpolated linearly; the mean of w is over the
    tokens of the rollout, whose mean advantage therefore stays. So two tokens of a rollout differ
    by at most a factor of exp(kappa), by default 4. The code can also lower kappa to 0 over a run;
    here it is fixed. kappa must be >= 0; 0 changes nothing.
    """
    assert kappa >= 0, f"kappa must be at least 0 (got {kappa})"
    in_loss = tokens.loss_mask > 0
    entropy, advantages = tokens.entropy.double(), tokens.advantages.double()
    if not in_loss.any():
        return _finalize(tokens, advantages)
    low, high = (_quantile(entropy[in_loss], share) for share in (0.1, 0.9))
    h = ((entropy - low) / (high - low + 1e-8)).clamp(0, 1)
    exponent = kappa * advantages.sign() * h
    w = (exponent + _lowest(-exponent, tokens.row, in_loss)).exp()  # the largest is 1
    return _finalize(tokens, advantages * _divide(w, _mean(w, tokens.row, in_loss)))


def high_entropy(tokens: TokenGroups, *, rho: float = 0.2) -> Float[Tensor, "M"]:
    """Beyond the 80/20 rule (arXiv 2506.01939): only the batch's highest-entropy tokens keep A.

        A' = A if H >= Q(1 - rho), else 0

    Q is the quantile function of H, interpolated linearly between order statistics, as in TRL's
    code. So of n tokens the n - ceil((1 - rho) (n - 1)) with the highest entropy keep their
    advantage, together with all tokens tied with the lowest of these. rho = 1 changes nothing. rho
    must be in (0, 1].
    """
    assert 0 < rho <= 1, f"rho must be above 0 and at most 1 (got {rho})"
    entropies = tokens.entropy[tokens.loss_mask > 0].sort().values
    if not len(entropies):
        return _finalize(tokens, tokens.advantages)
    # No token lies between the quantile and the order statistic above it, so the latter is the
    # threshold; 1e-9 absorbs rounding.
    threshold = entropies[math.ceil((1 - rho) * (len(entropies) - 1) - 1e-9)]
    return _finalize(tokens, torch.where(tokens.entropy >= threshold, tokens.advantages, 0.0))


def stare(
    tokens: TokenGroups,
    *,
    share: float = 0.1,
    positive_weight: float = 1.1,
    negative_weight: float = 1.0,
    entropy_below: float = 0.3,
) -> Float[Tensor, "M"]:
    """STARE (arXiv 2606.19236; its official code): surprising tokens of correct rollouts learn more
    while the entropy is low.

        A' = A positive_weight    for the ceil(share n) least likely of the n tokens with A > 0
        A' = A negative_weight    for the ceil(share n) least likely of the n tokens with A < 0
        A' = A                    for all others, and where the batch's mean entropy is not below
                                  entropy_below (nats per token)

    The code's first form, its default, is this one; its second form has a negative_weight of 0.9.
    The tokens are those of the batch (the code's: of a micro-batch, under the current policy); the
    last one's ties are taken too. The code can also move both weights by 0.01 a step, towards 1.5
    and 0.5 while the entropy is low and back otherwise; here they are fixed. share must be in
    [0, 1].
    """
    assert 0 <= share <= 1, f"share must be from 0 to 1 (got {share})"
    in_loss, advantages = tokens.loss_mask > 0, tokens.advantages
    if not in_loss.any() or tokens.entropy[in_loss].double().mean() >= entropy_below:
        return _finalize(tokens, advantages)
    weights = torch.ones_like(advantages)
    channels = ((advantages > 0, positive_weight), (advantages < 0, negative_weight))
    for channel, weight in channels:
        candidates = in_loss & channel
        if count := math.ceil(share * int(candidates.sum()) - 1e-9):
            last = tokens.logprobs[candidates].kthvalue(count).values
            weights = torch.where(candidates & (tokens.logprobs <= last), weight, weights)
    return _finalize(tokens, advantages * weights)


def _finalize(tokens: TokenGroups, advantages: Float[Tensor, "M"]) -> Float[Tensor, "M"]:
    """What every reweighter returns: 0 where loss_mask is 0, the input's dtype, no gradient."""
    masked = torch.where(tokens.loss_mask > 0, advantages, 0.0)
    return masked.to(tokens.advantages.dtype).detach()


def _mean(
    values: Float[Tensor, "M"], part: Int[Tensor, "M"], in_loss: Bool[Tensor, "M"]
) -> Float[Tensor, "M"]:
    """For each token, the mean over the tokens of its part that are in the loss; 0 without any.

    `part` numbers the groups, or is 0 for the whole batch. The sum is of differences to the
    smallest value, so that the mean of equal values is exactly that value.
    """
    lowest = _lowest(values.detach(), part, in_loss)
    total = _zeros(part).index_add(0, part, torch.where(in_loss, values - lowest, 0.0))
    count = _zeros(part).index_add(0, part, in_loss.double())
    return lowest + (total / count.clamp(min=1))[part]


def _std(
    values: Float[Tensor, "M"], part: Int[Tensor, "M"], in_loss: Bool[Tensor, "M"], std: Std
) -> Float[Tensor, "M"]:
    """Like `_mean`, the standard deviation: population (N) or sample (N - 1; 0 for one token)."""
    assert std in get_args(Std), f"std must be one of {get_args(Std)} (got {std!r})"
    variance = _mean((values - _mean(values, part, in_loss)).square(), part, in_loss)
    if std == "sample":
        count = _zeros(part).index_add(0, part, in_loss.double())
        variance = variance * (count / (count - 1).clamp(min=1))[part]
    noise = 1e-18 * _mean(values.square(), part, in_loss)
    return torch.where(variance > noise, variance, 0.0).sqrt()


def _lowest(
    values: Float[Tensor, "M"], part: Int[Tensor, "M"], in_loss: Bool[Tensor, "M"]
) -> Float[Tensor, "M"]:
    """Like `_mean`, the smallest value."""
    lowest = torch.full_like(_zeros(part), math.inf)
    lowest = lowest.scatter_reduce(0, part, torch.where(in_loss, values, math.inf), "amin")
    return torch.where(lowest.isinf(), 0.0, lowest)[part]


def _quantile(values: Float[Tensor, "n"], share: float) -> Float[Tensor, ""]:
    """Linear between order statistics. torch.quantile has a limit of 2^24 values."""
    ordered, place = values.sort().values, share * (len(values) - 1)
    return torch.lerp(ordered[math.floor(place)], ordered[math.ceil(place)], place % 1)


def _divide(values: Float[Tensor, "M"], divisors: Float[Tensor, "M"]) -> Float[Tensor, "M"]:
    """values / divisors, and 0 where a divisor is 0."""
    return torch.where(divisors > 0, values / divisors, 0.0)


def _zeros(part: Int[Tensor, "M"]) -> Float[Tensor, "parts"]:
    """One zero for each part."""
    return torch.zeros(
        int(part.max()) + 1 if len(part) else 0, dtype=torch.float64, device=part.device
    )


REWEIGHT: dict[str, Callable[..., Tensor]] = {
    "none": none,
    "covariance_kernel": covariance_kernel,
    "covariance_kernel_code": covariance_kernel_code,
    "entropy_aware": entropy_aware,
    "quadrant": quadrant,
    "entropy_advantage": entropy_advantage,
    "entropic_advantage": entropic_advantage,
    "high_entropy": high_entropy,
    "stare": stare,
}
