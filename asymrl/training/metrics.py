"""One step's metrics: each counted with the mask of the thing that it describes.

The names are a contract (docs/metrics.md). Knows values, no engine and no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from asymrl.algo import diagnostics
from asymrl.algo.batch import engine_logprobs, select_rows
from asymrl.engines.policy import Policy
from asymrl.types import REASONS, Groups, Rollout, Scored, Tokens, UpdateStats, Verdict


def rollout_metrics(
    groups: Groups,
    advantages: Tensor,
    tokens: Tokens,
    scored: Scored,
    rollouts: Sequence[Rollout],
    verdicts: Sequence[Verdict],
) -> dict[str, float]:
    """What a rollout batch looks like before its update. advantages (R,).

    Rewards, verdicts, lengths and mismatch are over all rollouts, entropy over all response tokens;
    the diagnostics and the channels over valid rollouts.
    """
    logprobs, entropy = scored
    rewards, by_rollout = groups.rewards.flatten(), advantages.reshape(groups.rewards.shape)
    channel = rewards.masked_fill(~groups.valid.flatten(), torch.nan)
    mismatch = engine_logprobs(rollouts) - logprobs
    ones = torch.ones_like(entropy)
    return {
        "reward/mean": rewards.mean().item(),
        **diagnostics.entropy_by_channel(entropy, ones, channel[tokens.row].float()),
        **diagnostics.solved_fractions(groups),
        "diag/kappa": diagnostics.kappa(groups),
        **diagnostics.channel_mass(groups, by_rollout),
        **diagnostics.by_accuracy(groups, by_rollout),
        "rollout/length_mean": groups.lengths.double().mean().item(),
        "rollout/truncated": mean([rollout.truncated for rollout in rollouts]),
        "rollout/logprob_mismatch_mean": mismatch.abs().mean().item(),
        "rollout/logprob_mismatch_max": mismatch.abs().max().item(),
        "rollout/mismatch_kl": mismatch.mean().item(),
        **{
            f"verdict/{reason}": mean([verdict.reason == reason for verdict in verdicts])
            for reason in REASONS
        },
    }


def logprob_gain(
    policy: Policy, tokens: Tokens, scored: Scored, rewards: Tensor
) -> dict[str, float]:
    """What the step's updates did to the log-prob of its correct rollouts, nats per token.

    Costs a forward pass over those rows. NaN where no rollout was correct.
    """
    correct, part = select_rows(tokens, rewards == 1)
    new = policy.score(correct)[0] if len(correct.targets) else torch.zeros(0)
    selected = torch.ones_like(new, dtype=torch.bool)
    gain = diagnostics.logprob_gain(new, scored[0][part], selected)
    return {"diag/logprob_gain_positive": gain}


def update_metrics(
    updates: Sequence[UpdateStats], seconds: Mapping[str, float], response_tokens: int
) -> dict[str, float]:
    """Means over the step's optimizer steps (maxima for ratio_max), and the pace of the step.

    perf/*_tokens_per_s count response tokens of all rollouts, skipped ones too.
    """
    means = {
        name: mean([update.metrics[name] for update in updates if name in update.metrics])
        for name in sorted({name for update in updates for name in update.metrics})
    }
    cells = [update.by_accuracy_bin["pressure"] for update in updates]
    means |= diagnostics.pressure([mean(of_cell) for of_cell in zip(*cells, strict=True)])
    peaks = [u.metrics["loss/ratio_max"] for u in updates if "loss/ratio_max" in u.metrics]
    if peaks:
        means["loss/ratio_max"] = max(peaks)
    return means | {
        "optim/grad_norm": mean([update.grad_norm for update in updates]),
        "optim/lr": updates[-1].lr,
        "optim/updates": float(updates[-1].updates),
        "optim/skipped_updates": float(sum(update.non_finite is not None for update in updates)),
        "perf/skipped_rows": float(sum(update.skipped_rows for update in updates)),
        "perf/rollout_tokens_per_s": response_tokens / seconds["time/generate"],
        "perf/update_tokens_per_s": response_tokens / seconds["time/update"],
        **seconds,
    }


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
