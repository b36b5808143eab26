"""Advantage estimators: the rewards of N groups of G rollouts -> advantages (N, G).

An estimator is a function of `Groups` with keyword-only float parameters, which are its keys in a
config. To add one, write the function and add a line to ADVANTAGES at the bottom. An `assert` on a
parameter becomes the error message for a bad value in a config. tests/algo/test_advantages.py then
checks the properties below for the new estimator too.

Common to all estimators:
- n is the number of a group's valid rollouts and p the fraction of them with reward 1. Invalid
  rollouts count in neither and get advantage 0, so a group without valid rollouts gets only zeros.
- r is the reward of a rollout. "Sample std" divides by n - 1, "population std" divides by n.
- Where a formula has 0 / 0 or an undefined std, the advantage is 0 unless the docstring says
  otherwise.
- The result has the dtype of `groups.rewards`. All tokens of a rollout share its advantage.

This module does not know tokens, losses or probability ratios.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from asymrl.types import Groups

EPSILON = 1e-6
"""Added to a std or a mean before dividing by it, as in verl and code built on it."""


def asym(groups: Groups, *, beta_pos: float, beta_neg: float) -> Float[Tensor, "N G"]:
    """AsymGRPO (arXiv 2604.04894, Eq. 8): each channel has its own focus on hard or easy prompts.

        A_pos(p) =  ((1 - p) / p) ** beta_pos      for reward 1
        A_neg(p) = -(p / (1 - p)) ** beta_neg      for reward 0

    Members: (0, 0) REINFORCE, (0.5, 0) Pos-Only, (0, 0.5) Neg-Only, (0.5, 0.5) GRPO with the
    population std and no epsilon, (b, b) symmetric, (1, 0) MaxRL (on mixed groups). The mean over
    a group is 0 for every p if and only if beta_pos + beta_neg = 1.

    Degenerate cases: 0^0 := 1, so beta = 0 gives +1 or -1 on all-solved and none-solved groups too;
    with beta > 0 those groups get exactly 0. Betas must be >= 0.
    """
    p, _ = _accuracy(groups)
    return _by_channel(groups, _odds(1 - p, p, beta_pos), -_odds(p, 1 - p, beta_neg))


def ent_increase(
    groups: Groups, *, beta_pos: float = 0.5, beta_neg: float = 0.5
) -> Float[Tensor, "N G"]:
    """`asym` with the negative channel's curve reflected, A~_neg(p) = A_neg(1 - p).

    arXiv 2604.04894, Section 3.2 and Appendix C. At p = 0, where A_neg(1 - p) is undefined, the
    curve is extended by the line through its values at 1/n and 2/n. With a single valid rollout
    that line does not exist and the value is 0.
    """
    p, size = _accuracy(groups)
    return _by_channel(groups, _odds(1 - p, p, beta_pos), -_reflected(1 - p, size, beta_neg))


def ent_decrease(
    groups: Groups, *, beta_pos: float = 0.5, beta_neg: float = 0.5
) -> Float[Tensor, "N G"]:
    """`asym` with the positive channel's curve reflected, A~_pos(p) = A_pos(1 - p).

    arXiv 2604.04894, Section 3.2 and Appendix C. At p = 1, where A_pos(1 - p) is undefined, the
    curve is extended by the line through its values at (n - 1)/n and (n - 2)/n. With a single
    valid rollout that line does not exist and the value is 0.
    """
    p, size = _accuracy(groups)
    return _by_channel(groups, _reflected(p, size, beta_pos), -_odds(p, 1 - p, beta_neg))


def grpo_sample_std(groups: Groups) -> Float[Tensor, "N G"]:
    """GRPO as verl computes it: (r - mean) / (std + 1e-6), with the sample std.

    On mixed groups this is sqrt((n - 1) / n) times `asym` at (0.5, 0.5), up to the epsilon.
    All-solved and none-solved groups and groups with one valid rollout get 0.
    """
    p, size = _accuracy(groups)
    std = _sample_std(p, size) + EPSILON
    return _by_channel(groups, (1 - p) / std, -p / std)


def dr_grpo(groups: Groups) -> Float[Tensor, "N G"]:
    """Dr. GRPO (arXiv 2503.20783; its official code): r - p, which is GRPO without the std.

    All-solved and none-solved groups get 0. The other half of the method, a loss divided by a
    constant length, is `loss.aggregation: constant`.
    """
    p, _ = _accuracy(groups)
    return _by_channel(groups, 1 - p, -p)


def rloo(groups: Groups) -> Float[Tensor, "N G"]:
    """RLOO (arXiv 2402.14740; verl's code): r minus the mean reward of the group's other rollouts.

        A = r - (n p - r) / (n - 1) = n / (n - 1) * (r - p)

    All-solved and none-solved groups get 0, and so does the only valid rollout of a group.
    """
    p, size = _accuracy(groups)
    scale = size / (size - 1).clamp(min=1)
    return _by_channel(groups, scale * (1 - p), -scale * p)


def maxrl(groups: Groups) -> Float[Tensor, "N G"]:
    """MaxRL (arXiv 2602.02710; its official code): (r - p) / (p + 1e-6).

    On mixed groups this is `asym` at (1, 0), up to the epsilon. None-solved groups get 0, whereas
    `asym` at (1, 0) gives -1; all-solved groups get 0 from both.
    """
    p, _ = _accuracy(groups)
    return _by_channel(groups, (1 - p) / (p + EPSILON), -p / (p + EPSILON))


def w_reinforce(
    groups: Groups, *, positive_weight: float = 0.1, negative_weight: float = 1.0
) -> Float[Tensor, "N G"]:
    """W-REINFORCE (arXiv 2506.01347; its official code): a constant advantage for each channel.

        A = positive_weight if r = 1,    -negative_weight if r = 0

    The paper's lambda is `positive_weight` = 0.1, with a `negative_weight` of 1. Members: (1, 0)
    PSR, which learns from correct responses only; (0, 1) NSR, from wrong ones only; (1, 1)
    REINFORCE. All-solved and none-solved groups are treated like all others.
    """
    p, _ = _accuracy(groups)
    positive = torch.full_like(p, positive_weight)
    return _by_channel(groups, positive, torch.full_like(p, -negative_weight))


def wapo(groups: Groups) -> Float[Tensor, "N G"]:
    """WAPO (arXiv 2606.16154; its official code): r - p for correct rollouts, nothing for others.

    All-solved groups get 0. The rest of the method is in the row: no lower clip, ratios up to 10
    (`loss.clip_high` 9), and a loss divided by a constant length. The official code can also train
    on some bins of tokens only, by the policy's collision probability; that is not here.
    """
    p, _ = _accuracy(groups)
    return _by_channel(groups, 1 - p, torch.zeros_like(p))


def flash_reinforce(groups: Groups) -> Float[Tensor, "N G"]:
    """The advantage of FlashREINFORCE (September 2026; its official code): r minus the mean reward
    of the batch, so that all-solved and none-solved groups have a gradient too. The rest of the
    method is the loss of the same name.
    """
    p, size = _accuracy(groups)
    mean = (p * size).nansum() / size.sum().clamp(min=1)
    return _by_channel(groups, (1 - mean).expand_as(p), (-mean).expand_as(p))


def reinforce_pp(groups: Groups) -> Float[Tensor, "N G"]:
    """REINFORCE++ (arXiv 2501.03262; verl's code): rewards whitened over the tokens of the batch.

        A = (r - mean) / sqrt(var + 1e-8)

    mean and the sample variance count each rollout once for each of its tokens (`lengths`), so long
    rollouts weigh more. A batch whose rewards are all equal gets 0.
    """
    p, _ = _accuracy(groups)
    return _whitened(groups, _by_channel(groups, torch.ones_like(p), torch.zeros_like(p)))


def reinforce_pp_baseline(groups: Groups) -> Float[Tensor, "N G"]:
    """REINFORCE++-baseline (arXiv 2501.03262; verl's code): r - p, whitened like `reinforce_pp`.

    All-solved and none-solved groups get the negative of the batch's mean, which is 0 if all
    rollouts are equally long.
    """
    p, _ = _accuracy(groups)
    return _whitened(groups, _by_channel(groups, 1 - p, -p))


def fade(groups: Groups, *, alpha: float = 3.0, delta: float = 1.0) -> Float[Tensor, "N G"]:
    """FADE (arXiv 2607.01490; from third-party notes): r - p, less on easy prompts.

        A = (1 - p) ** (alpha - 1) * (r - p)              for reward 1
        A = (1 - p) ** (alpha - 1) * (r - p) / delta      for reward 0

    All-solved and none-solved groups get 0. The paper changes both during a run: alpha falls from 3
    to 1 as the policy solves more, and delta, from 0.3 to 1, follows its entropy; here they are
    fixed. The notes leave open in which direction delta moves the entropy. alpha must be >= 1 and
    delta > 0.
    """
    assert alpha >= 1, f"alpha must be at least 1 (got {alpha})"
    assert delta > 0, f"delta must be above 0 (got {delta})"
    p, _ = _accuracy(groups)
    focus = (1 - p) ** (alpha - 1)
    return _by_channel(groups, focus * (1 - p), -focus * p / delta)


def ngrpo(groups: Groups) -> Float[Tensor, "N G"]:
    """NGRPO (arXiv 2509.18851; its official code): GRPO with one virtual correct rollout per group.

    The virtual rollout counts in the mean and in the sample std and gets no advantage itself: this
    is `grpo_sample_std` with (n p + 1) / (n + 1) in place of p and n + 1 in place of n. None-solved
    groups therefore get a negative advantage, -1 / sqrt(n + 1) up to the epsilon; all-solved groups
    get 0. This also holds for a group with a single valid rollout that is wrong (the official code
    returns its reward unchanged). The method's asymmetric clip, 0.16 below and 0.24 above, is
    `loss.clip_low` and `loss.clip_high`.
    """
    p, size = _accuracy(groups)
    p = (size * p + 1) / (size + 1)
    std = _sample_std(p, size + 1) + EPSILON
    return _by_channel(groups, (1 - p) / std, -p / std)


def qae(groups: Groups, *, quantile: float = 0.4) -> Float[Tensor, "N G"]:
    """Quantile advantage estimation (arXiv 2509.22611; formula from third-party notes).

        A = (r - b) / std,     b = the K-quantile of the group's rewards = 0 if p <= 1 - K, else 1

    K is `quantile`, from 0 to 1. On hard prompts (p <= 1 - K) only correct rollouts get a nonzero
    advantage, on easy prompts only wrong ones, as the abstract says. Two choices are ours, because
    the notes do not specify them: the population std without an epsilon, and 0 on all-solved and
    none-solved groups for every K.
    """
    assert 0 <= quantile <= 1, f"quantile must be from 0 to 1 (got {quantile})"
    p, _ = _accuracy(groups)
    hard = p <= 1 - quantile + 1e-6  # p is a fraction k / n: 1 - 0.9 must not be below 1 / 10
    unit = 1 / (p * (1 - p)).sqrt()
    positive = torch.where(hard & (p < 1), unit, 0.0)
    return _by_channel(groups, positive, torch.where(hard, 0.0, -unit))


def a_grae(groups: Groups, *, alpha: float = 1.0) -> Float[Tensor, "N G"]:
    """A-GRAE (arXiv 2602.05548, Eqs. 12-13), where A is the advantage from `grpo_sample_std`.

        A' = A * [w / (2 sqrt(p)) + (1 - w) / (2 sqrt(1 - p))],  times min(1, w / alpha) if A > 0

    w is the accuracy of the batch: the mean of p over the groups in `groups` that have a valid
    rollout, as in the official code (it equals the mean reward if all rollouts are valid). With a
    low w, easy groups weigh more and correct rollouts weigh less. `alpha` is in (0, 1]; the paper
    uses 1 for mathematics and 0.5 elsewhere. All-solved and none-solved groups get 0.

    The official code differs from the equations: it has 1 - sqrt(p) in place of sqrt(1 - p), and
    the released version runs this branch at the first step only. We follow the paper.
    """
    assert 0 < alpha <= 1, f"alpha must be above 0 and at most 1 (got {alpha})"
    p, size = _accuracy(groups)
    w = p[size > 0].mean()
    focus = w / (2 * p.sqrt()) + (1 - w) / (2 * (1 - p).sqrt())
    focus = torch.where((p > 0) & (p < 1), focus, 0.0)
    std = _sample_std(p, size) + EPSILON
    positive = focus * (1 - p) / std * (w / alpha).clamp(max=1)
    return _by_channel(groups, positive, -focus * p / std)


def unlikeliness(groups: Groups, *, beta: float = 0.25) -> Float[Tensor, "N G"]:
    """Unlikeliness reward (arXiv 2506.02355; its official code): likely correct rollouts earn less.

        r' = r * (1 - beta * rank / n),   A = (r' - mean(r')) / (std(r') + 1e-6)

    rank is 0 .. n - 1 over the group's rollouts, correct and wrong, from the lowest to the highest
    mean old log-prob per token; std is the sample std. Rollouts with equal log-probs share the mean
    of their ranks (ours; their order in the official code is arbitrary). beta = 0 gives
    `grpo_sample_std`.

    None-solved groups and groups with one valid rollout get 0. All-solved groups get nonzero
    advantages unless beta = 0 or their log-probs are all equal, because their rewards r' differ.
    (The official code has an option, absent here, that drops all-solved and none-solved groups.)
    """
    _, size = _accuracy(groups)
    logprobs, size = groups.mean_logprobs, size[:, None]
    own, other = logprobs[:, :, None], logprobs[:, None, :]
    below = (other < own).to(groups.rewards.dtype) + 0.5 * (other == own)
    rank = torch.where(groups.valid[:, None, :], below, 0.0).sum(2) - 0.5  # without itself
    reward = torch.where(groups.valid & (groups.rewards == 1), 1 - beta * rank / size, 0.0)
    centred = torch.where(groups.valid, reward - reward.sum(1, keepdim=True) / size, 0.0)
    std = (centred.square().sum(1, keepdim=True) / (size - 1).clamp(min=1)).sqrt()
    return centred / (std + EPSILON)


def _accuracy(groups: Groups) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """p and n of every group; p is nan in a group without valid rollouts."""
    correct = groups.valid & (groups.rewards == 1)
    wrong = groups.valid & (groups.rewards == 0)
    assert bool((correct | wrong).eq(groups.valid).all()), "rewards must be 0 or 1"
    size = groups.valid.sum(1).to(groups.rewards.dtype)
    return correct.sum(1) / size, size


def _sample_std(p: Float[Tensor, "N"], size: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Sample std of n rewards, n p of them 1 and the others 0; 0 at n = 1."""
    return (p * (1 - p) * size / (size - 1).clamp(min=1)).sqrt()


def _odds(
    numerator: Float[Tensor, "N"], denominator: Float[Tensor, "N"], beta: float
) -> Float[Tensor, "N"]:
    """(numerator / denominator) ** beta, with 0^0 := 1.

    For beta > 0 it is infinite where the denominator is 0, but there the channel has no rollouts.
    """
    assert beta >= 0, f"beta_pos and beta_neg must be at least 0 (got {beta})"
    return (numerator / denominator) ** beta


def _reflected(p: Float[Tensor, "N"], size: Float[Tensor, "N"], beta: float) -> Float[Tensor, "N"]:
    """B(p) = (p / (1 - p)) ** beta, extended linearly at p = 1 (Appendix C).

        B(1) := B((n-1)/n) + [B((n-1)/n) - B((n-2)/n)],    and 0 if n < 2

    Both reflected channels use this curve: B(p) is A_pos(1 - p), and -B(1 - p) is A_neg(1 - p).
    """
    last, before = (size - 1) ** beta, ((size - 2) / 2) ** beta  # odds of n - 1 to 1, n - 2 to 2
    end = torch.where(size < 2, 0.0, last + (last - before))
    return torch.where(p == 1, end, _odds(p, 1 - p, beta))


def _whitened(groups: Groups, values: Float[Tensor, "N G"]) -> Float[Tensor, "N G"]:
    """(N, G): values less their mean, over the root of their sample variance + 1e-8, both over the
    tokens of the valid rollouts; 0 if invalid."""
    tokens = torch.where(groups.valid, groups.lengths, 0).to(values.dtype)
    count = tokens.sum()
    values = torch.where(groups.valid, values, 0.0)
    centred = values - (tokens * values).sum() / count.clamp(min=1)
    variance = (tokens * centred.square()).sum() / (count - 1).clamp(min=1)
    return torch.where(groups.valid, centred / (variance + 1e-8).sqrt(), 0.0)


def _by_channel(
    groups: Groups, positive: Float[Tensor, "N"], negative: Float[Tensor, "N"]
) -> Float[Tensor, "N G"]:
    """Each rollout's advantage: `positive` at reward 1, `negative` at reward 0, 0 if invalid."""
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
    "wapo": wapo,
    "flash_reinforce": flash_reinforce,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
    "fade": fade,
    "ngrpo": ngrpo,
    "qae": qae,
    "a_grae": a_grae,
    "unlikeliness": unlikeliness,
}
