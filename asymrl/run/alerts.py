"""Numbers gone bad: what to call out, and when to stop.

Knows metrics and settings; no engine, no file. The bounds are the section `warn` of a config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from asymrl.config.schema import WarnConfig
from asymrl.errors import UserError
from asymrl.run.tracking import NullTracker
from asymrl.types import UpdateStats


def concerns(metrics: Mapping[str, float], bounds: WarnConfig) -> dict[str, str]:
    """What is past its bound, by the bound's name: the metric, its value, and what to try."""
    entropy, truncated = metrics["policy/entropy"], metrics["rollout/truncated"]
    failures = metrics["verdict/timeout"] + metrics["verdict/crashed"]
    mismatch = metrics["rollout/logprob_mismatch_mean"]
    lower = "a smaller optim.lr, a loss.entropy_bonus, or a smaller advantage.beta_pos may help"
    found = {  # a number that is none is within no bound
        "entropy_below": (
            not entropy >= bounds.entropy_below,
            f"policy/entropy is {entropy:.3g} nats, the policy has all but collapsed; {lower}",
        ),
        "entropy_above": (
            not entropy <= bounds.entropy_above,
            f"policy/entropy is {entropy:.3g} nats, the policy is coming apart; a smaller "
            "optim.lr, loss.entropy_bonus or loss.clip_high may help",
        ),
        "truncated_above": (
            not truncated <= bounds.truncated_above,
            f"rollout/truncated is {truncated:.0%} of the responses; a larger rollout.max_tokens, "
            "or rollout.truncation=mask, may help",
        ),
        "verifier_failures_above": (
            not failures <= bounds.verifier_failures_above,
            f"verdict/timeout and verdict/crashed are {failures:.1%} of the responses, which earn "
            "0 whatever they say; a larger verifier.timeout may help",
        ),
        "mismatch_above": (
            not mismatch <= bounds.mismatch_above,
            f"rollout/logprob_mismatch_mean is {mismatch:.3g} nats a token: the engine samples "
            "from another distribution than the policy trains; loss.importance_sampling=token, or "
            "rollout.sync_check_every=1 to compare the weights, may help",
        ),
    }
    return {
        name: f"{text} (warn.{name} = {getattr(bounds, name):g})"
        for name, (bad, text) in found.items()
        if bad
    }


class Alerts(NullTracker):
    """Says each concern when it begins, and no more until it has ended. `say`: prints a line."""

    def __init__(self, bounds: WarnConfig, say: Callable[[str], None]) -> None:
        self.bounds, self.say = bounds, say
        self.known: Mapping[str, str] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if "policy/entropy" not in metrics:  # step 0 is an evaluation
            return
        found = concerns(metrics, self.bounds)
        for name in found.keys() - self.known.keys():
            self.say(f"warning: step {step}: {found[name]}")
        self.known = found


def skipped_in_a_row(before: int, updates: Sequence[UpdateStats]) -> int:
    """Updates that were skipped since the last one that was not; `before`: of earlier steps."""
    for update in updates:
        before = before + 1 if update.non_finite else 0
    return before


def stop_if_diverged(step: int, skipped: int, updates: Sequence[UpdateStats], most: int) -> None:
    """UserError where `most` updates in a row or more were skipped."""
    if skipped < most:
        return
    last = next(update for update in reversed(updates) if update.non_finite)
    raise UserError(
        f"step {step}: {skipped} updates in a row were skipped, the last because {last.non_finite} "
        f"was not finite; rollouts/step-{step:06d}.jsonl has this step's batch; a smaller optim.lr "
        "or smaller betas, from an earlier checkpoint (--resume DIR), may help"
    )
