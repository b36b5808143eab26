"""What to watch in a run: numbers of the groups and of the generating policy.

Each function counts only what its mask selects and returns plain floats. A mean over nothing is
`nan`. "Positive" and "negative" are channels, that is reward 1 and reward 0, not signs of A.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from asymrl.types import Groups

BINS = 16
"""Group accuracies are counted to the nearest sixteenth: exactly, for G = 2, 4, 8 and 16."""
NUM_ACCURACY_BINS = 2 * (BINS + 1)


def kappa(groups: Groups) -> float:
    """kappa_B of a rollout batch (arXiv 2604.04894, Appendix E), nats per token.

        kappa_B = mean over mixed groups g of   p_g (1 - p_g) * delta_g * log(p_g / (1 - p_g))

    delta_g is the mean over correct minus the mean over wrong rollouts of L, the mean old log-prob
    of a rollout's response tokens. To first order around (0, 0), Proposition 1, a step of size eta
    changes the entropy by eta (beta_pos - beta_neg) kappa_B more than REINFORCE's. A group is mixed
    if 0 < p < 1 over its valid rollouts; `nan` if none is.
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

    diag/mass_positive = mean over groups of (1/n) sum of |A| over rollouts with reward 1, and
    diag/mass_negative likewise with reward 0; n is the number of valid rollouts. For AsymGRPO on
    mixed groups they are the means of W+(p) and W-(p), see `pressure_positive`.
    """
    correct, wrong = _channels(groups)
    size = groups.valid.sum(1)

    def mass(channel: Tensor) -> float:
        total = torch.where(channel, advantages.abs(), 0.0).sum(1)
        return _mean(total / size, size > 0)

    return {"diag/mass_positive": mass(correct), "diag/mass_negative": mass(wrong)}


def accuracy_bins(groups: Groups) -> Int[Tensor, "N G"]:
    """Which cell a rollout counts under: round(16 p) for reward 0, and 17 more for reward 1.

    Mixed groups are never rounded to 0 or 1.
    """
    correct, wrong = _channels(groups)
    size = groups.valid.sum(1).clamp(min=1)
    accuracy = (BINS * correct.sum(1) / size).round().long()
    mixed = correct.any(1) & wrong.any(1)
    accuracy = torch.where(mixed, accuracy.clamp(1, BINS - 1), accuracy)
    return accuracy[:, None] + (BINS + 1) * correct


def by_accuracy(groups: Groups, advantages: Float[Tensor, "N G"]) -> dict[str, float]:
    """Where the groups are, and where the estimator puts its weight, by group accuracy p.

    groups/accuracy/<p>           fraction of the groups with accuracy p (valid rollouts only)
    pressure/positive_defined/<p> their share in diag/mass_positive: sums to it over p
    pressure/negative_defined/<p> likewise

    p in sixteenths; where no group is, there is no metric.
    """
    cell = accuracy_bins(groups)[groups.valid]
    counted = groups.valid.any(1)
    size = groups.valid.sum(1, keepdim=True).expand_as(groups.valid)[groups.valid]
    zeros = advantages.new_zeros(NUM_ACCURACY_BINS)
    share = 1 / (size * counted.sum())
    mass = zeros.index_add(0, cell, (advantages[groups.valid].abs() * share).to(zeros.dtype))
    fraction = zeros.index_add(0, cell, share.to(zeros.dtype)).reshape(2, BINS + 1).sum(0)
    present = {p: value for p, value in enumerate(fraction.tolist()) if value > 0}
    return {f"groups/accuracy/{p / BINS}": value for p, value in present.items()} | {
        f"pressure/{channel}_defined/{p / BINS}": mass[p + row * (BINS + 1)].item()
        for row, channel in enumerate(("negative", "positive"))
        for p in present
    }


def pressure(by_accuracy_bin: Sequence[float]) -> dict[str, float]:
    """The policy gradient's mass by channel and group accuracy, as measured in a mini-batch.

    pressure/positive/<p>, pressure/negative/<p>: the sum of |d loss / d logprob| over the tokens
    of that channel in groups of accuracy p: after clipping, with real lengths and reweighting
    (Proposition 2, measured). diag/gradient_<channel>: the sum over p. Cells without mass are left
    out.
    """
    metrics: dict[str, float] = {}
    for row, channel in enumerate(("negative", "positive")):
        of_channel = by_accuracy_bin[row * (BINS + 1) : (row + 1) * (BINS + 1)]
        metrics[f"diag/gradient_{channel}"] = sum(of_channel)
        metrics |= {f"pressure/{channel}/{p / BINS}": m for p, m in enumerate(of_channel) if m}
    return metrics


def solved_fractions(groups: Groups) -> dict[str, float]:
    """Fractions of the groups with p = 1 and with p = 0, among those with a valid rollout."""
    correct, wrong = _channels(groups)
    counted = groups.valid.any(1)
    return {
        "groups/all_solved": _mean(~wrong.any(1), counted),
        "groups/none_solved": _mean(~correct.any(1), counted),
    }


def entropy_by_channel(
    entropy: Float[Tensor, "M"],
    loss_mask: Float[Tensor, "M"],
    rewards_of_token: Float[Tensor, "M"],
) -> dict[str, float]:
    """Mean entropy (nats) per token: of all, of correct and of wrong responses.

    `rewards_of_token` is the reward of the rollout that a token is in. Tokens of weight 0 are left
    out.
    """
    counted = loss_mask > 0
    return {
        "policy/entropy": _mean(entropy, counted),
        "policy/entropy_positive": _mean(entropy, counted & (rewards_of_token == 1)),
        "policy/entropy_negative": _mean(entropy, counted & (rewards_of_token == 0)),
    }


def logprob_gain(
    new: Float[Tensor, "M"], old: Float[Tensor, "M"], selected: Bool[Tensor, "M"]
) -> float:
    """Mean of new - old log-probs (nats) over the selected tokens.

    With `old` before and `new` after a step's updates, and the tokens of correct rollouts selected,
    it is the paper's E[log pi_new(y) - log pi_old(y)], here per token and not per response.
    """
    return _mean(new - old, selected)


def pressure_positive(p: Float[Tensor, "*shape"], beta_pos: float) -> Float[Tensor, "*shape"]:
    """W+(p) = p A_pos(p) = p^(1 - b) (1 - p)^b, greatest at p = 1 - b (Eq. 9, Proposition 2)."""
    return p ** (1 - beta_pos) * (1 - p) ** beta_pos


def pressure_negative(p: Float[Tensor, "*shape"], beta_neg: float) -> Float[Tensor, "*shape"]:
    """W-(p) = (1 - p) |A_neg(p)| = p^b (1 - p)^(1 - b), greatest at p = b (Eq. 10, Prop. 2)."""
    return pressure_positive(1 - p, beta_neg)


def _channels(groups: Groups) -> tuple[Bool[Tensor, "N G"], Bool[Tensor, "N G"]]:
    """The valid rollouts with reward 1, and those with reward 0."""
    return groups.valid & (groups.rewards == 1), groups.valid & (groups.rewards == 0)


def _mean(values: Tensor, selected: Tensor) -> float:
    chosen = values[selected].double()
    return chosen.mean().item() if len(chosen) else math.nan
