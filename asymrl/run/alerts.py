"""Warnings about metrics out of bounds, and the end of a run whose updates are not finite.

Knows metrics and settings; no engine and no file. The bounds are the `warn` section of a config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from asymrl.errors import UserError
from asymrl.types import UpdateStats

if TYPE_CHECKING:  # the schema loads torch
    from asymrl.config.schema import WarnConfig


def violated_bounds(metrics: Mapping[str, float], bounds: WarnConfig) -> dict[str, str]:
    """For each violated bound, by name: the metric, its value and what to try. NaN violates every
    bound."""
    entropy, truncated = metrics["policy/entropy"], metrics["rollout/truncated"]
    failures = metrics["verdict/timeout"] + metrics["verdict/crashed"]
    mismatch = metrics["rollout/logprob_mismatch_mean"]
    checks = {
        "entropy_below": (
            entropy >= bounds.entropy_below,
            f"policy/entropy is {entropy:.3g} nats, the policy has almost collapsed; try a smaller "
            "optim.lr, a loss.entropy_bonus or a smaller advantage.beta_pos",
        ),
        "entropy_above": (
            entropy <= bounds.entropy_above,
            f"policy/entropy is {entropy:.3g} nats, the policy is close to random; try a smaller "
            "optim.lr, loss.entropy_bonus or loss.clip_high",
        ),
        "truncated_above": (
            truncated <= bounds.truncated_above,
            f"rollout/truncated is {truncated:.0%} of the responses; try a larger "
            "rollout.max_tokens or rollout.truncation=mask",
        ),
        "verifier_failures_above": (
            failures <= bounds.verifier_failures_above,
            f"verdict/timeout and verdict/crashed are {failures:.1%} of the responses, which earn "
            "reward 0 even if they are right; try a larger verifier.timeout, or see the exception "
            "above",
        ),
        "mismatch_above": (
            mismatch <= bounds.mismatch_above,
            f"rollout/logprob_mismatch_mean is {mismatch:.3g} nats per token: the engine samples "
            "from a different distribution than the policy trains; try "
            "loss.importance_sampling=token, or rollout.sync_check_every=1 to compare the weights",
        ),
    }
    return {
        name: f"{text} (warn.{name} = {getattr(bounds, name):g})"
        for name, (within_bound, text) in checks.items()
        if not within_bound
    }


def skipped_in_a_row(before: int, updates: Sequence[UpdateStats]) -> int:
    """Updates skipped since the last one that was applied. before: that number one step ago."""
    for update in updates:
        before = before + 1 if update.non_finite else 0
    return before


def stop_if_diverged(step: int, skipped: int, updates: Sequence[UpdateStats], most: int) -> None:
    """UserError if `most` or more updates in a row were skipped."""
    if skipped < most:
        return
    last = next(update for update in reversed(updates) if update.non_finite)
    raise UserError(
        f"step {step}: {skipped} updates in a row were skipped, the last because {last.non_finite} "
        f"was not finite; rollouts/step-{step:06d}.jsonl has the batch of this step; try a smaller "
        "optim.lr or smaller betas, from an earlier checkpoint (--resume DIR)"
    )
