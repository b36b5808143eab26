"""Warnings about metrics out of bounds and about runs that cannot learn, and the end of a run whose
updates are not finite.

Knows metrics and settings; no engine and no file. The bounds are the `warn` section of a config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from asymrl.errors import UserError
from asymrl.types import UpdateStats

if TYPE_CHECKING:  # the schema loads torch
    from asymrl.config.schema import WarnConfig


RISE = 1.5  # times the entropy of the first step
MORE_ENTROPY = "a smaller optim.lr, a loss.entropy_bonus or a smaller advantage.beta_pos"
SOLVED = ("all_solved", "none_solved")


def violated_bounds(history: Sequence[Mapping[str, float]], bounds: WarnConfig) -> dict[str, str]:
    """For each violated bound, by name: what is wrong and what to try. NaN violates every bound.

    history: the metrics of all training steps so far; the last one is judged.
    """
    metrics, first = history[-1], history[0]["policy/entropy"]
    entropy, truncated = metrics["policy/entropy"], metrics["rollout/truncated"]
    failures = metrics["verdict/timeout"] + metrics["verdict/crashed"]
    mismatch = metrics["rollout/logprob_mismatch_mean"]
    less_sure = "a larger rollout.temperature" if len(history) == 1 else MORE_ENTROPY
    checks = {
        "entropy_below": (
            entropy >= bounds.entropy_below,
            f"policy/entropy is {entropy:.3g} nats, so the policy is almost deterministic and the "
            f"responses to a prompt hardly differ; try {less_sure}",
        ),
        # A pretrained model may start above any fixed bound: only a rise says that it comes apart.
        "entropy_above": (
            entropy <= max(bounds.entropy_above, RISE * first),
            f"policy/entropy has risen from {first:.3g} nats at the first step to {entropy:.3g}, "
            "so responses become random; try a smaller optim.lr, loss.entropy_bonus or "
            "loss.clip_high",
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
    } | cannot_learn(history, bounds)


def cannot_learn(history: Sequence[Mapping[str, float]], bounds: WarnConfig) -> dict[str, str]:
    """Why the rewards teach the policy nothing, by the name of the check; at most one reason."""
    metrics = history[-1]
    if (share := metrics["verdict/no_answer"]) > bounds.no_answer_above:
        cause = (
            "most are cut off: try a larger rollout.max_tokens"
            if metrics["rollout/truncated"] > 0.5
            else "try a data.user or data.system that asks for the form that verifier.name reads, "
            "a data.chat_template that suits the model, or another verifier.name"
        )
        return {
            "no_answer_above": f"verdict/no_answer is {share:.0%} of the responses, which earn "
            f"reward 0; {cause} (warn.no_answer_above = {bounds.no_answer_above:g})"
        }
    if all(row["reward/mean"] == 1 for row in history):
        return {
            "solved": "every response since the first step is correct, so there is nothing to "
            "learn; try harder problems, and check in rollouts/ that the verifier does not accept "
            "wrong answers"
        }
    recent = history[-bounds.unmixed_steps :]
    solved, unsolved = ([row[f"groups/{name}"] for row in recent] for name in SOLVED)
    if len(recent) < bounds.unmixed_steps or any(map(is_mixed, solved, unsolved)):
        return {}
    count = f"in {len(recent)} steps" if len(recent) > 1 else "in this step"
    pushed = any(row["diag/mass_positive"] + row["diag/mass_negative"] > 0 for row in recent)
    effect = "nothing tells better responses from worse" if pushed else "every advantage is 0"
    if min(unsolved) == 1:
        what = f"no response {count} was correct"
        advice = "easier problems, or a larger rollout.group_size; check in rollouts/ that the "
        advice += "verifier does not refuse right answers"
    elif min(solved) == 1:
        what, advice = f"every response {count} was correct", "harder problems, or end the run"
    elif pushed:  # an estimator without a baseline still learns from one prompt about another
        return {}
    else:
        what = f"no prompt {count} had both correct and wrong responses"
        advice = "a larger rollout.group_size or rollout.temperature, or problems that the policy "
        advice += "solves now and then"
    return {
        "unmixed_steps": f"{what}, so {effect}; try {advice} "
        f"(warn.unmixed_steps = {bounds.unmixed_steps})"
    }


def is_mixed(all_solved: float, none_solved: float) -> bool:
    """Whether some group has both rewards; NaN, without a valid rollout, counts as mixed."""
    return not all_solved + none_solved > 1 - 1e-6  # means of float32


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
