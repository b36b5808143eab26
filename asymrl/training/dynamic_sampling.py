"""Which groups are a step's batch: those of one round of prompt draws or, with dynamic sampling,
the first N mixed ones of several rounds (DAPO, arXiv 2503.14476, Section 3.2).

A group is mixed if its valid rollouts have both rewards; GRPO's advantages are 0 in all others. A
group enters whole or not at all, in the order of the draws. Every rank has all rollouts of a round
(training/rollout.py), so all ranks decide the same. Knows neither engines nor policies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import compress

from torch import Tensor

from asymrl.config.schema import RolloutConfig
from asymrl.run.exit_codes import WRONG
from asymrl.training.metrics import MIXED, Sums, add_sums, means, outcome_sums
from asymrl.training.rollout import rewards_and_mask
from asymrl.types import Generated, Position, RolloutGroups, Stopped

Draw = Callable[..., RolloutGroups | Stopped]
"""draw(first_draw=, count=) -> so many groups: training.loop.draw_groups with the rest bound."""


def generate_batch(
    draw: Draw, rollout: RolloutConfig, position: Position
) -> tuple[RolloutGroups, Generated | None] | Stopped:
    """The groups of a step's batch, and what was generated for it; None if that is the batch."""
    if rollout.dynamic_sampling:
        return fill_batch(draw, rollout, position)
    groups = draw(first_draw=position.draws, count=rollout.prompts)
    return groups if isinstance(groups, Stopped) else (groups, None)


def fill_batch(
    draw: Draw, rollout: RolloutConfig, position: Position
) -> tuple[RolloutGroups, Generated] | Stopped:
    """Draw prompts in rounds until N = rollout.prompts groups are mixed.

    The batch is what the last step left over, then the first mixed groups of this one. Mixed groups
    beyond N are dropped, or returned as Generated.leftovers without scores. Stopped, with the exit
    code of an error, if max_rounds rounds find too few.
    """
    settings, prompts = rollout.dynamic_sampling, rollout.prompts
    assert settings is not None
    found = position.leftovers or RolloutGroups(requests=(), rollouts=(), verdicts=())
    carried_over, rounds = len(found.requests), 0
    sums: Sums = {MIXED: (0, 0)}
    while len(found.requests) < prompts:
        mixed, draws = sums[MIXED]
        if rounds == settings.max_rounds:
            return too_few_mixed(position.step + 1, rounds, mixed, draws, prompts)
        missing = prompts - len(found.requests)
        count = size_of_round(missing, mixed, draws, most=prompts)
        groups = draw(first_draw=position.draws + draws, count=count)
        if isinstance(groups, Stopped):
            return groups
        rewards, valid = rewards_and_mask(groups.rollouts, groups.verdicts, rollout.truncation)
        rewards, valid = rewards.reshape(count, -1), valid.reshape(count, -1)
        found = join(found, select_groups(groups, is_mixed(rewards, valid)))
        sums = add_sums(sums, outcome_sums(groups, rewards, valid))
        rounds += 1

    in_batch = [index < prompts for index in range(len(found.requests))]
    batch, leftovers = select_groups(found, in_batch), None
    if settings.leftover == "keep" and not all(in_batch):
        leftovers = select_groups(found, [not chosen for chosen in in_batch])
    rewards, _ = rewards_and_mask(batch.rollouts, batch.verdicts, rollout.truncation)
    (tokens, generated), (_, draws) = sums["rollout/length_mean"], sums[MIXED]
    kept = len(leftovers.requests) if leftovers else 0
    counts = {
        "rounds": rounds,
        "draws": draws,
        "generated": generated,
        "discarded": generated - (prompts + kept - carried_over) * rollout.group_size,
        "carried_over": carried_over,
        "kept": kept,
        "batch_reward": rewards.mean().item(),
    }
    metrics = means(sums) | {f"dynamic_sampling/{name}": float(n) for name, n in counts.items()}
    return batch, Generated(draws=draws, tokens=tokens, metrics=metrics, leftovers=leftovers)


def size_of_round(missing: int, mixed: int, draws: int, *, most: int) -> int:
    """How many prompts the next round draws, when `missing` of the batch's groups are missing.

    In a step's first round: as many. Later (missing + sqrt(missing)) / share, rounded up, where
    share = mixed / draws is what the step has seen so far: what is expected to be needed plus about
    one standard deviation. A further round costs the time of its longest response, whatever its
    size, which is more than a few groups too many. At most `most`, so that no round is larger than
    a step without dynamic sampling.
    """
    if draws == 0:
        return missing
    if mixed == 0:
        return most
    return min(most, math.ceil((missing + math.sqrt(missing)) * draws / mixed))


def is_mixed(rewards: Tensor, valid: Tensor) -> list[bool]:
    """rewards, valid (N, G) -> for each group, whether its valid rollouts have both rewards."""
    correct, wrong = valid & (rewards == 1), valid & (rewards == 0)
    return (correct.any(1) & wrong.any(1)).tolist()


def select_groups(groups: RolloutGroups, chosen: Sequence[bool]) -> RolloutGroups:
    """The groups with True in `chosen`, without their scores."""
    size = len(groups.rollouts) // len(groups.requests)
    rows = [flag for flag in chosen for _ in range(size)]
    return RolloutGroups(
        requests=[*compress(groups.requests, chosen)],
        rollouts=[*compress(groups.rollouts, rows)],
        verdicts=[*compress(groups.verdicts, rows)],
    )


def join(first: RolloutGroups, second: RolloutGroups) -> RolloutGroups:
    """All groups of both, in this order, without their scores."""
    return RolloutGroups(
        requests=[*first.requests, *second.requests],
        rollouts=[*first.rollouts, *second.rollouts],
        verdicts=[*first.verdicts, *second.verdicts],
    )


def too_few_mixed(step: int, rounds: int, mixed: int, draws: int, prompts: int) -> Stopped:
    """The end of a run whose prompts are too easy or too hard for dynamic sampling."""
    return Stopped(
        why=f"step {step}: {mixed} of {draws} groups in {rounds} rounds had both correct and wrong "
        f"responses, too few for rollout.prompts = {prompts}; resume with a larger "
        "rollout.dynamic_sampling.max_rounds, or start a new run with a larger rollout.group_size "
        "or problems nearer to what the policy can solve",
        code=WRONG,
    )
