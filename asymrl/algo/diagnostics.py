"""Diagnostics of a rollout batch: kappa, channel masses, accuracy bins, entropy by channel.

Each function counts only what its mask selects and returns plain floats. The mean of an empty
selection is `nan`. "Positive" and "negative" name the channels, reward 1 and reward 0, and not the
sign of an advantage. This module does not know how the numbers are logged.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from asymrl.types import Groups

BINS = 16
"""Group accuracies are rounded to the nearest sixteenth, which is exact for G = 2, 4, 8 and 16."""
NUM_ACCURACY_BINS = 2 * (BINS + 1)
"""0/16 to 16/16 for each of BIN_CHANNELS, in this order."""
BIN_CHANNELS = ("negative", "positive")


def kappa(groups: Groups) -> float:
    """kappa_B of a rollout batch (arXiv 2604.04894, Appendix E), nats per token.

        kappa_B = mean over mixed groups g of   p_g (1 - p_g) * delta_g * log(p_g / (1 - p_g))

    Let L be the mean old log-prob of a rollout's response tokens. delta_g is the mean of L over the
    correct rollouts of g minus its mean over the wrong ones. Proposition 1: to first order around
    (0, 0), a step of size eta changes the entropy by eta (beta_pos - beta_neg) kappa_B more than
    REINFORCE does. A group is mixed if 0 < p < 1 over its valid rollouts; `nan` without such a
    group.
    """
    correct, wrong = _channels(groups)
    num_correct, num_wrong = correct.sum(1), wrong.sum(1)
    mixed = (num_correct > 0) & (num_wrong > 0)
    logprobs, dtype = groups.mean_logprobs, groups.mean_logprobs.dtype
    p = num_correct.to(dtype) / (num_correct + num_wrong)
    mean_correct = torch.where(correct, logprobs, 0.0).sum(1) / num_correct
    mean_wrong = torch.where(wrong, logprobs, 0.0).sum(1) / num_wrong
    terms = p * (1 - p) * (mean_correct - mean_wrong) * (p / (1 - p)).log()
    return _mean(terms, mixed)


def channel_mass(groups: Groups, advantages: Float[Tensor, "N G"]) -> dict[str, float]:
    """Mean gradient weight of each channel over all groups that have a valid rollout.

    diag/mass_positive is the mean over groups of (1/n) sum |A|, where the sum runs over rollouts
    with reward 1 and n is the number of valid rollouts; diag/mass_negative is the same for
    reward 0. For AsymGRPO on mixed groups they are the means of

        W+(p) = p A_pos(p) = p^(1 - b) (1 - p)^b,   largest at p = 1 - b,   b = beta_pos   (Eq. 9)
        W-(p) = (1 - p) |A_neg(p)| = p^b (1 - p)^(1 - b),   at p = b,       b = beta_neg   (Eq. 10)
    """
    correct, wrong = _channels(groups)
    size = groups.valid.sum(1)

    def mass(channel: Tensor) -> float:
        total = torch.where(channel, advantages.abs(), 0.0).sum(1)
        return _mean(total / size, size > 0)

    return {"diag/mass_positive": mass(correct), "diag/mass_negative": mass(wrong)}


def accuracy_bins(groups: Groups) -> Int[Tensor, "N G"]:
    """The bin of each rollout: round(16 p) for reward 0, and 17 more than that for reward 1.

    Mixed groups are never rounded to p = 0 or p = 1.
    """
    correct, wrong = _channels(groups)
    size = groups.valid.sum(1).clamp(min=1)
    accuracy = (BINS * correct.sum(1) / size).round().long()
    mixed = correct.any(1) & wrong.any(1)
    accuracy = torch.where(mixed, accuracy.clamp(1, BINS - 1), accuracy)
    return accuracy[:, None] + (BINS + 1) * correct


def by_accuracy(groups: Groups, advantages: Float[Tensor, "N G"]) -> dict[str, float]:
    """The distribution of group accuracy p, and the estimator's gradient weight at each p.

    groups/accuracy/<p>           fraction of the groups with accuracy p (over valid rollouts)
    pressure/positive_defined/<p> the part of diag/mass_positive from groups of accuracy p
    pressure/negative_defined/<p> the part of diag/mass_negative from groups of accuracy p

    p is in sixteenths. An accuracy without groups has no metric.
    """
    bins = accuracy_bins(groups)[groups.valid]
    num_groups = groups.valid.any(1).sum()
    size = groups.valid.sum(1, keepdim=True).expand_as(groups.valid)[groups.valid]
    zeros = advantages.new_zeros(NUM_ACCURACY_BINS)
    share = 1 / (size * num_groups)
    mass = zeros.index_add(0, bins, (advantages[groups.valid].abs() * share).to(zeros.dtype))
    fraction = zeros.index_add(0, bins, share.to(zeros.dtype)).reshape(2, BINS + 1).sum(0)
    groups_at = {p: value for p, value in enumerate(fraction.tolist()) if value > 0}
    return {f"groups/accuracy/{p / BINS}": value for p, value in groups_at.items()} | {
        f"pressure/{channel}_defined/{p / BINS}": mass[p + index * (BINS + 1)].item()
        for index, channel in enumerate(BIN_CHANNELS)
        for p in groups_at
    }


def pressure(by_accuracy_bin: Sequence[float]) -> dict[str, float]:
    """Gradient mass by channel and group accuracy, measured in a mini-batch (Proposition 2).

    pressure/positive/<p>, pressure/negative/<p>: the sum of |d loss / d logprob| over the tokens
    of that channel in groups of accuracy p, after reweighting and clipping, with the actual
    response lengths. diag/gradient_<channel>: the sum over p. Bins without mass have no metric.
    """
    metrics: dict[str, float] = {}
    for index, channel in enumerate(BIN_CHANNELS):
        masses = by_accuracy_bin[index * (BINS + 1) : (index + 1) * (BINS + 1)]
        metrics[f"diag/gradient_{channel}"] = sum(masses)
        metrics |= {f"pressure/{channel}/{p / BINS}": m for p, m in enumerate(masses) if m}
    return metrics


def solved_fractions(groups: Groups) -> dict[str, float]:
    """Fractions of groups with p = 1 and with p = 0, among the groups with a valid rollout."""
    correct, wrong = _channels(groups)
    not_empty = groups.valid.any(1)
    return {
        "groups/all_solved": _mean(~wrong.any(1), not_empty),
        "groups/none_solved": _mean(~correct.any(1), not_empty),
    }


def entropy_by_channel(
    entropy: Float[Tensor, "M"], loss_mask: Float[Tensor, "M"], token_rewards: Float[Tensor, "M"]
) -> dict[str, float]:
    """Mean entropy per token, in nats, of all, of correct and of wrong responses.

    `token_rewards` is the reward of each token's rollout. Tokens with loss_mask 0 do not count.
    """
    in_loss = loss_mask > 0
    return {
        "policy/entropy": _mean(entropy, in_loss),
        "policy/entropy_positive": _mean(entropy, in_loss & (token_rewards == 1)),
        "policy/entropy_negative": _mean(entropy, in_loss & (token_rewards == 0)),
    }


def logprob_gain(
    new: Float[Tensor, "M"], old: Float[Tensor, "M"], selected: Bool[Tensor, "M"]
) -> float:
    """Mean of new - old log-probs, in nats, over the selected tokens.

    From before to after a step's updates, over the tokens of correct rollouts, it is the paper's
    E[log pi_new(y) - log pi_old(y)], per token instead of per response.
    """
    return _mean(new - old, selected)


def _channels(groups: Groups) -> tuple[Bool[Tensor, "N G"], Bool[Tensor, "N G"]]:
    """Masks of the valid rollouts with reward 1 and of those with reward 0."""
    return groups.valid & (groups.rewards == 1), groups.valid & (groups.rewards == 0)


def _mean(values: Tensor, selected: Tensor) -> float:
    """Mean of the selected values; nan if none is selected."""
    selection = values[selected].double()
    return selection.mean().item() if len(selection) else math.nan
