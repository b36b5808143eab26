"""The metrics of one step, each over the rollouts or tokens that it describes.

The names are a contract (docs/metrics.md). Reads no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from asymrl.algo import diagnostics
from asymrl.algo.batch import engine_logprobs, select_rows
from asymrl.engines.policy import Policy
from asymrl.types import REASONS, Experience, RolloutGroups, Scored, Tokens, UpdateStats

Sums = Mapping[str, tuple[int, int]]
"""name -> (sum, count): means over several rounds of generation are exact."""
MIXED = "dynamic_sampling/mixed"


def rollout_metrics(experience: Experience) -> dict[str, float]:
    """Metrics of a rollout batch before its update.

    Rewards, verdicts and lengths are over all rollouts; mismatch and entropy over the response
    tokens of those that were scored (policy.score_all_rows). Diagnostics and entropy by channel are
    over valid rollouts. With dynamic sampling, what outcome_sums has is over everything that the
    step generated instead.
    """
    groups, tokens, (logprobs, entropy) = experience.groups, experience.tokens, experience.scored
    rewards, rollouts = experience.rewards, experience.rollouts
    advantages = experience.advantages.reshape(groups.rewards.shape)
    channel = rewards.masked_fill(~experience.valid, torch.nan)
    is_scored = ~entropy.isnan()
    mismatch = (engine_logprobs(rollouts) - logprobs)[is_scored]
    reasons = [verdict.reason for verdict in experience.verdicts]
    return {
        "reward/mean": rewards.mean().item(),
        **diagnostics.entropy_by_channel(entropy, is_scored.float(), channel[tokens.row].float()),
        **diagnostics.solved_fractions(groups),
        "diag/kappa": diagnostics.kappa(groups),
        **diagnostics.channel_mass(groups, advantages),
        **diagnostics.by_accuracy(groups, advantages),
        "rollout/length_mean": groups.lengths.double().mean().item(),
        "rollout/truncated": mean([rollout.truncated for rollout in rollouts]),
        "rollout/logprob_mismatch_mean": mismatch.abs().mean().item(),
        "rollout/logprob_mismatch_max": mismatch.abs().max().item(),
        "rollout/mismatch_kl": mismatch.mean().item(),
        **{f"verdict/{reason}": reasons.count(reason) / len(reasons) for reason in REASONS},
        **experience.generated.metrics,
    }


def scored_rows(experience: Experience) -> Tokens:
    """The rows that were scored: all, unless policy.score_all_rows is false."""
    tokens, (_, entropy) = experience.tokens, experience.scored
    is_scored = torch.bincount(tokens.row, weights=(~entropy.isnan()).double()) > 0
    return select_rows(tokens, is_scored)[0]


def outcome_sums(groups: RolloutGroups, rewards: Tensor, valid: Tensor) -> Sums:
    """The metrics that need no score, for generated groups of which not all enter the batch.

    rewards, valid (N, G). Also dynamic_sampling/mixed: the fraction of groups whose valid rollouts
    have both rewards.
    """
    correct, wrong = (valid & (rewards == 1)).any(1), (valid & (rewards == 0)).any(1)
    num_rollouts, num_groups = len(groups.rollouts), len(groups.requests)
    num_valid = int((correct | wrong).sum())  # groups
    reasons = [verdict.reason for verdict in groups.verdicts]
    return {
        "reward/mean": (int(rewards.sum()), num_rollouts),
        "groups/all_solved": (int((correct & ~wrong).sum()), num_valid),
        "groups/none_solved": (int((wrong & ~correct).sum()), num_valid),
        "rollout/length_mean": (sum(len(r.token_ids) for r in groups.rollouts), num_rollouts),
        "rollout/truncated": (sum(r.truncated for r in groups.rollouts), num_rollouts),
        **{f"verdict/{reason}": (reasons.count(reason), num_rollouts) for reason in REASONS},
        MIXED: (int((correct & wrong).sum()), num_groups),
    }


def add_sums(one: Sums, other: Sums) -> Sums:
    """A name that only one of them has counts as (0, 0) in the other."""
    zero = (0, 0)
    pairs = {name: (one.get(name, zero), other.get(name, zero)) for name in {**one, **other}}
    return {name: (a + c, b + d) for name, ((a, b), (c, d)) in pairs.items()}


def means(sums: Sums) -> dict[str, float]:
    """The mean of an empty selection is nan."""
    return {name: total / count if count else math.nan for name, (total, count) in sums.items()}


def measure_logprob_gain(
    policy: Policy, tokens: Tokens, scored: Scored, rewards: Tensor
) -> dict[str, float]:
    """How much a step's updates raised the log-probs of its correct rollouts, in nats per token.

    Costs a forward pass over those rows. NaN if no rollout was correct.
    """
    correct, in_correct = select_rows(tokens, rewards == 1)
    new = policy.score(correct)[0] if len(correct.targets) else torch.zeros(0)
    selected = torch.ones_like(new, dtype=torch.bool)
    gain = diagnostics.logprob_gain(new, scored[0][in_correct], selected)
    return {"diag/logprob_gain_positive": gain}


def update_metrics(
    updates: Sequence[UpdateStats], seconds: Mapping[str, float], generated: int, batch: int
) -> dict[str, float]:
    """Means over the step's updates (loss/ratio_max: their maximum), and the step's throughput.

    generated, batch: response tokens of all rollouts generated and of those in the batch, skipped
    rows included.
    """
    by_name = {
        name: mean([update.metrics[name] for update in updates if name in update.metrics])
        for name in sorted({name for update in updates for name in update.metrics})
    }
    bins = [update.by_accuracy_bin["pressure"] for update in updates]
    by_name |= diagnostics.pressure([mean(column) for column in zip(*bins, strict=True)])
    peaks = [u.metrics["loss/ratio_max"] for u in updates if "loss/ratio_max" in u.metrics]
    if peaks:
        by_name["loss/ratio_max"] = max(peaks)
    return by_name | {
        "optim/grad_norm": mean([update.grad_norm for update in updates]),
        "optim/lr": updates[-1].lr,
        "optim/updates": float(updates[-1].updates),
        "optim/skipped_updates": float(sum(update.non_finite is not None for update in updates)),
        "perf/skipped_rows": float(sum(update.skipped_rows for update in updates)),
        "perf/rollout_tokens_per_s": generated / seconds["time/generate"],
        "perf/update_tokens_per_s": batch / seconds["time/update"],
        **seconds,
    }


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
